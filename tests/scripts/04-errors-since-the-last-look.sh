# Prints only the errors that are new.
ganger start -D > /dev/null 2>&1
cursor() { sed -n 's/.*"cursor":"\([^"]*\)".*/\1/p'; }
last=$(ganger logs --json -n 0 | cursor)
ganger signal USR1 worker
ganger wait worker --log ERROR --this-run --timeout 30s
ganger logs --json --cursor "$last" --grep ERROR > new.jsonl
test "$(grep -c '"line":"ERROR: asked"' new.jsonl)" = 1
test "$(ganger logs --json --cursor "$(cursor < new.jsonl)" --grep ERROR | wc -l)" = 1
ganger quit
