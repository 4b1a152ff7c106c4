# A process that says that it has failed is one, although it lives.
printf '[process.web]\nfail = { log = "listening" }\n' > strict.toml
if ganger with web --config strict.toml -- sleep 1000 2> err; then exit 1; else test $? = 125; fi
grep -q 'web.1 has failed: it wrote .listening on port' err
