# Uses the app if it runs, and leaves it running.
ganger start -D > /dev/null 2>&1
ganger with -- ganger ps web --json | grep -q '"state": "up"'
ganger ps > /dev/null
ganger quit
