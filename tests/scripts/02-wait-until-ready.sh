# Starts in the background, and goes on when all is ready.
ganger start -D > start.log 2>&1
ganger ps --json | grep -q '"ready": true'
ganger wait web worker --ready --timeout 30s
ganger quit
