# Adds instances, and waits until they are ready.
ganger start -D > /dev/null 2>&1
ganger scale web=3
ganger wait web --ready --timeout 30s | wc -l | grep -qx ' *3'
ganger scale web=1
ganger quit
