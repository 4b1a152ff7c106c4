# Runs tests against an app of their own, on other ports.
ganger start -D > /dev/null 2>&1
first=$(ganger ps web --json | sed -n 's/^ *"port": \([0-9]*\),$/\1/p')
second=$(ganger with --fresh -- sh -c 'echo $GANGER_PROCESS_web_PORT')
test "$first" != "$second"
ganger quit
