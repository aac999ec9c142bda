#!/bin/bash
# Runs a command as the driver of a Ray cluster elsewhere: joins it as a node without CPUs first, because a driver needs
# a Ray node on its own host. Without RAY_ADDRESS the command simply runs.
#
#   RAY_ADDRESS=host:6379 join-ray lacuna controller
#
# Ends when the command does, with its code; with 1 when the node is lost (the Ray head went away): whoever runs the
# container starts it again, and the ledger knows where to go on. /tmp/alive is younger than a minute while both live.
set -u

if [ -z "${RAY_ADDRESS:-}" ]; then exec "$@"; fi

node_lives() { grep -qsx raylet /proc/[0-9]*/comm; }

# The mark is where jobs of sweeps find the ledger (`lacuna submit --as rayjob`).
until ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --resources='{"lacuna:controller": 1}' \
    --object-store-memory=80000000 --disable-usage-stats > /tmp/ray-start.log 2>&1; do
    echo "Ray at $RAY_ADDRESS does not answer yet: $(tail -n 1 /tmp/ray-start.log)"
    sleep 5 &
    wait $!
done
echo "joined Ray at $RAY_ADDRESS"

"$@" &
command=$!
trap 'kill -TERM $command 2> /dev/null' TERM INT
lost=
while kill -0 $command 2> /dev/null; do
    if ! node_lives; then
        lost=1
        echo "the Ray node is gone: ending, to join again" >&2
        kill -TERM $command
        break
    fi
    touch /tmp/alive
    sleep 2 &
    wait $!
done
wait $command
code=$?
if [ -n "$lost" ]; then exit 1; fi
exit $code
