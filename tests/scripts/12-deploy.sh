# Takes over a changed setting, and fails if the app does not become ready again.
ganger start -D > /dev/null 2>&1
echo 'COLOR=green' > .env
ganger reload --wait=30s --json > changes.json
grep -q '"web.1"' changes.json
ganger quit
