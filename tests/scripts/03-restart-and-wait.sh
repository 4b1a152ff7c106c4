# Restarts a process, and checks that it is another one.
ganger start -D > /dev/null 2>&1
pid() { ganger ps web --json | sed -n 's/^ *"pid": \([0-9]*\),$/\1/p' | tail -1; }
before=$(pid)
ganger restart web --wait
test "$(pid)" != "$before"
ganger quit
