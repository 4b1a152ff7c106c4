# The migration is a job in the formation: it is done before the tests begin.
ganger with -- test -e migrated
# A failing migration fails the run.
echo 'migrate: echo no such table; exit 9' >> broken
grep -v ^migrate Procfile >> broken
if ganger with -f broken -- true 2> err; then exit 1; else test $? = 125; fi
grep -q 'migrate.1 failed first: it exited (9)' err
grep -q 'no such table' err
