# Runs once in the sandbox in which the tests run.
set -eu
# Submissions run as other users than root, and must not read what is expected of them.
if [ "$(id -u)" = 0 ]; then chmod go-rwx .; fi
python fetch_suites.py
