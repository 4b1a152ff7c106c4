# A trap stops the app, however the script ends.
ganger start -D > /dev/null 2>&1
(trap 'ganger quit' EXIT; false) || true
if ganger ps 2> /dev/null; then exit 1; else test $? = 3; fi
