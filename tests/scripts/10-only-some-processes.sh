# Starts only what the tests need.
ganger with db -- ganger ps --json > ps.json 2> /dev/null
grep -q '"name": "db.1"' ps.json
if grep -q '"name": "web.1"' ps.json; then exit 1; fi
