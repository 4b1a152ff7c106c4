# Shows the output of what failed, and nothing else.
printf 'web: echo boom; exit 4\nother: echo fine; exec sleep 1000\n' > broken
: > empty.toml
if ganger with -f broken --config empty.toml -N -- true 2> err; then exit 1; else test $? = 125; fi
grep -q boom err
if grep -q fine err; then exit 1; fi
