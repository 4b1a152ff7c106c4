# Runs the tests against the app; its exit code is that of the tests.
if ganger with -- sh -c 'test -n "$GANGER_PROCESS_web_PORT" && exit 3'; then exit 1; else code=$?; fi
test $code = 3
# Nothing is left.
if ganger ps 2> /dev/null; then exit 1; else test $? = 3; fi
