# Follows the output, and ends at the first error.
ganger start -D > /dev/null 2>&1
ganger logs -f --grep ERROR worker > errors & follower=$!
until test -s errors; do ganger signal USR1 worker; sleep 0.1; done
kill $follower
grep -q 'ERROR: asked' errors
ganger quit
