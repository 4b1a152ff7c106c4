# A commit hook: refuses invalid files.
ganger check > /dev/null
echo 'web: twice' | cat Procfile - > broken
if ganger check -f broken 2> err; then exit 1; else test $? = 2; fi
grep -q 'line' err
