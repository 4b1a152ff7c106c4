# A second start is refused, and says what to type instead.
ganger start -D > /dev/null 2>&1
if ganger start -D 2> err; then exit 1; else test $? = 2; fi
grep -q 'ganger quit' err
ganger quit
