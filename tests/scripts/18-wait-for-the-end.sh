# Waits until a process has exited.
ganger start -D --can-die worker > /dev/null 2>&1
(sleep 0.3; ganger signal KILL worker) > /dev/null &
ganger wait worker --exit --timeout 30s | grep -q 'worker.1 was killed by SIGKILL'
wait
ganger quit || true
