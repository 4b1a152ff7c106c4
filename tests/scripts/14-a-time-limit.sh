# Gives up on an app that does not become ready.
printf '[process.web]\nready = { log = "never" }\n' > slow.toml
if ganger with web --config slow.toml --timeout 0.5s -- true 2> err; then exit 1; else test $? = 125; fi
grep -q 'web.1 is not ready after 0.5s' err
