# Waits for a line that the worker writes from now on.
ganger start -D > /dev/null 2>&1
ganger wait worker --log 'job [0-9]+ is done' --timeout 30s > line
grep -Eq '^worker.1: job [0-9]+ is done$' line
if ganger wait worker --log never --timeout 0.2s 2> /dev/null; then exit 1; else test $? = 4; fi
ganger quit
