# Lists each process with its port, from the JSON of a check: nothing is started.
ganger check --json | sed -n 's/^ *"name": "\(.*\)",$/\1/p;s/^ *"port": \(.*\),$/\1/p' > ports
grep -qx web.1 ports
grep -Eqx '[0-9]+' ports
