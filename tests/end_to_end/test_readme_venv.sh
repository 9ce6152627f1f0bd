#!/usr/bin/env bash
# The README's line that makes a virtual environment for the check against the world, run as it stands there.
#   test_readme_venv.sh SOURCE_DIR local    by the real venv and pip, with small wheels for the packages, whose own are
#                                           gigabytes: the environment must hold what tests/interop/run needs
#   test_readme_venv.sh SOURCE_DIR index    pip finds every package of the line, for this Python, in its own index; a dry
#                                           run of the line would download them
# Exit status 77 where python3 makes no virtual environment (Debian: python3-venv), and where no index answers.
set -euo pipefail

source_dir=$(realpath "$1")
packages_from=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; cat "$place"/*.log >&2 2> /dev/null; exit 1; }
command -v python3 > /dev/null && python3 -c 'import ensurepip, venv' 2> /dev/null ||
  { echo "skipped: python3 makes no virtual environment (Debian: python3-venv)"; exit 77; }

line=$(grep -m 1 '^python3 -m venv ' "$source_dir/README.md") || fail "the README has no line of python3 -m venv"
[[ $line =~ ^python3\ -m\ venv\ ([^ ]+)\ \&\&\ ([^ ]+)/pip\ install\ ([a-z\ ]+)$ ]] ||
  fail "the test does not know the form of: $line"
environment=${BASH_REMATCH[1]} packages=${BASH_REMATCH[3]}
# What the check itself asks Python for, and the line after, in which it gets this environment.
needed=$(sed -n 's/^[a-z_]*=$(lacks \([a-z ]*\))$/\1/p' "$source_dir/tests/interop/run" | paste -sd ' ')
[[ -n $needed ]] || fail "tests/interop/run needs nothing"
python=$(grep -A 1 '^python3 -m venv ' "$source_dir/README.md" | sed -n 's/^PYTHON=\([^ ]*\) tests\/interop\/run$/\1/p')
[[ -n $python ]] || fail "the README's next line does not run the check"
cd "$place"
python=${python/'$PWD'/$PWD}

if [[ $packages_from == index ]]; then
  pip=(python3 -m pip)
  if ! "${pip[@]}" --version > /dev/null 2>&1; then
    python3 -m venv "$environment" > venv.log 2>&1 || fail "python3 -m venv"
    pip=("$environment/bin/pip")
  fi
  export PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=10
  found() { timeout 30 "${pip[@]}" index versions "$1" > "$1.log" 2> "$1.errors.log"; }
  found pip || { echo "skipped: no package index answers to $("${pip[@]}" --version | cut -d ' ' -f 1,2)"; exit 77; }
  for package in $packages; do
    found "$package" || fail "pip finds no $package"
    sed -n 1p "$package.log"
  done
  echo "passed"
  exit
fi

# A wheel of each that is needed: an empty module of its name.
python3 - $needed <<'END'
import os, sys, zipfile
os.mkdir("wheels")
for name in sys.argv[1:]:
    with zipfile.ZipFile(f"wheels/{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL",
                       "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "".join(
            f"{file},,\n" for file in wheel.namelist() + [f"{name}-1.0.dist-info/RECORD"]))
END
for setting in ${!PIP_*}; do unset "$setting"; done
PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_FIND_LINKS=$place/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 \
  bash -c "$line" > install.log 2>&1 || fail "$line"
[[ -x $python ]] || fail "the next line names $python, which is not there"
for package in $needed; do
  "$python" -c 'import importlib, sys
module = importlib.import_module(sys.argv[1])
sys.exit(not module.__file__.startswith(sys.prefix))' "$package" 2> import.log ||
    fail "tests/interop/run needs $package, which is not installed"
done
echo "passed"
