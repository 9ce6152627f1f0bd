#!/usr/bin/env bash
# The README's way to the page of a run on another machine, typed as it stands there. The other machine is this one,
# behind an sshd of the test's own, so that the ports at the two ends of the tunnel cannot be the same: free ones stand
# for them.
#   test_readme_ssh.sh SOURCE_DIR SINKSCOPE
# Exit status 77 where sshd (Debian: openssh-server), ssh or script is missing.
set -euo pipefail

source_dir=$(realpath "$1")
program=$(realpath "$2")
readme=$source_dir/README.md
sshd=/usr/sbin/sshd  # named by its path: it starts itself anew by it
ssh=$(command -v ssh) || { echo "skipped: no ssh (Debian: openssh-client)"; exit 77; }
command -v script > /dev/null || { echo "skipped: no script (Debian: bsdutils)"; exit 77; }
[[ -x $sshd ]] || { echo "skipped: no $sshd (Debian: openssh-server)"; exit 77; }

place=$(mktemp -d)
daemon= session= privileges=
finish() {
  if [[ -n $session ]]; then kill -KILL "$session" $(cat "$place/shell.pid" 2> /dev/null) 2> /dev/null || true; fi
  if [[ -n $daemon ]]; then kill "$daemon" 2> /dev/null || true; fi
  wait
  if [[ -n $privileges ]]; then rmdir "$privileges" 2> /dev/null || true; fi
  rm -rf "$place"
}
trap finish EXIT
fail() {
  echo "FAILED: $1" >&2
  tail -n 30 "$place"/*.log >&2 2> /dev/null
  exit 1
}

# until_true SECONDS COMMAND...
until_true() {
  local end=$(( SECONDS + $1 ))
  shift
  until "$@"; do
    (( SECONDS < end )) || return 1
    sleep 0.1
  done
}
open_port() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
free_port() {  # below those that the kernel gives out
  local port
  while port=$(( 20000 + (RANDOM * 32768 + RANDOM) % 12000 )); open_port "$port"; do :; done
  echo "$port"
}

# The README's words: the command here, the next line for the machine that it leads to, and the address then opened.
tunnel=$(grep -m 1 '^ssh ' "$readme") || fail "the README has no line of ssh"
typed=$(grep -m 1 -A 1 '^ssh ' "$readme" | tail -n 1)
address=$(awk '/^ssh / { after = 1 }
  after && match($0, /http:\/\/[a-z0-9.]+:[0-9]+\//) { print substr($0, RSTART, RLENGTH); exit }' "$readme")
[[ -n $address ]] || fail "the README has no address"
[[ $tunnel =~ ^ssh\ -L\ ([0-9]+):localhost:([0-9]+)\ ([A-Z]+)$ ]] || fail "the test does not know the form of: $tunnel"
here=${BASH_REMATCH[1]} there=${BASH_REMATCH[2]} machine=${BASH_REMATCH[3]}
near=$(free_port)
until far=$(free_port) && [[ $far != "$near" ]]; do :; done
tunnel=${tunnel/"$here:localhost:$there"/"$near:localhost:$far"}
[[ " $typed " != *" --port $there "* ]] || typed=${typed/"--port $there"/"--port $far"}
address=${address/":$here/"/":$near/"}

# The other machine: a run of the README's name, and a shell in the folder that it is in. Its terminal is not sshd's,
# which not every user may make.
run=$(grep -oE 'runs/[a-z]+' <<< "$typed") || fail "no run in: $typed"
cat > "$place/config.json" <<END
{
  "name": "${run#runs/}", "device": "cpu", "threads": 2,
  "model": {"preset": "llama", "layers": 2, "channels": 16, "heads": 2, "hidden": 24}, "data": {"path": "data"},
  "train": {"steps": 20, "micro_batch": 4, "sequence_length": 32, "schedule": {"warmup_steps": 2}},
  "probes": {"every": 10, "sequences": 4, "short_length": 16}
}
END
cp "$readme" "$place/text.txt"
(cd "$place" && "$program" tokenize text.txt --output data --tokenizer byte --validation-fraction 0.2 &&
  "$program" train config.json) > "$place/train.log" 2>&1 || fail "a run to watch"
mkdir -p "$place/bin" "$place/assets/uplot"
for file in uPlot.iife.min.js uPlot.min.css LICENSE; do echo '/* */' > "$place/assets/uplot/$file"; done
printf '#!/bin/sh\nexec "%s" "$@"\n' "$program" > "$place/bin/sinkscope"
cat > "$place/shell" <<END
#!/bin/sh
cd "$place" && echo \$\$ > shell.pid
export PATH="$place/bin:\$PATH" SINKSCOPE_ASSETS="$place/assets" TERM=xterm
exec script -qfc 'bash --noprofile --rcfile "$place/bashrc" -i' /dev/null
END
echo "PS1='there> '" > "$place/bashrc"
printf '#!/bin/sh\nexec "%s" -F "%s" "$@"\n' "$ssh" "$place/ssh_config" > "$place/bin/ssh"
chmod +x "$place/shell" "$place"/bin/*

ssh-keygen -q -t ed25519 -N '' -f "$place/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$place/user_key"
if (( EUID == 0 )) && [[ ! -d /run/sshd ]]; then  # root's sshd asks for it; where there is a service it is there
  privileges=/run/sshd
  mkdir -m 755 "$privileges"
fi
pam=no  # without it the account of a root without a password counts as locked
if (( EUID == 0 )) && [[ $(getent shadow root) == root:!* ]]; then pam=yes; fi
for attempt in 1 2 3 4 5; do
  port=$(free_port)
  cat > "$place/sshd_config" <<END
ListenAddress 127.0.0.1
Port $port
HostKey $place/host_key
AuthorizedKeysFile $place/user_key.pub
PidFile none
UsePAM $pam
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand $place/shell
END
  : > "$place/sshd.log"
  "$sshd" -D -e -f "$place/sshd_config" 2>> "$place/sshd.log" &
  daemon=$!
  until_true 20 eval "grep -q '^Server listening' '$place/sshd.log' || ! kill -0 $daemon 2> /dev/null"
  if grep -q '^Server listening' "$place/sshd.log"; then break; fi
  kill "$daemon" 2> /dev/null || true
  daemon=
  grep -q 'Address already in use' "$place/sshd.log" || break
done
[[ -n $daemon ]] || fail "sshd starts"
echo "$machine $(cut -d ' ' -f 1,2 "$place/host_key.pub")" > "$place/known_hosts"
cat > "$place/ssh_config" <<END
Host $machine
  HostName 127.0.0.1
  HostKeyAlias $machine
  Port $port
  User $(id -un)
  IdentityFile $place/user_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $place/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ExitOnForwardFailure yes
  RequestTTY no
END

# Keys go in by this pipe, and what they bring about is the log.
mkfifo "$place/keys"
PATH=$place/bin:$PATH bash -c "exec $tunnel" < "$place/keys" > "$place/terminal.log" 2>&1 &
session=$!
exec 4> "$place/keys"
shows() { grep -qF -- "$1" "$place/terminal.log" 2> /dev/null; }
until_true 30 shows 'there> ' || fail "the command reaches the machine: $tunnel"
printf '%s\r' "$typed" >&4
until_true 60 shows 'live page: http://' || fail "the page is served there: $typed"

# fetch PATH: from the README's address, as a browser asks for it.
fetch() {
  local host=${address#http://}
  host=${host%/}
  {
    printf 'GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "$host" >&3
    timeout 30 cat <&3
  } 3<> "/dev/tcp/${host%:*}/${host##*:}" > "$place/answer.log"
}
fetch "" || fail "$address is reached"
grep -q '^HTTP/1.1 200 ' "$place/answer.log" || fail "$address answers"
grep -qi '<!doctype html>' "$place/answer.log" || fail "with a page"
fetch data || fail "${address}data is reached"
grep -qF "\"${run#runs/}\"" "$place/answer.log" || fail "the page is that of the run"

printf '\003' >&4  # Ctrl-C ends the server, and the shell goes on
until_true 30 eval "(( \$(grep -c 'there> ' '$place/terminal.log') > 1 ))" || fail "Ctrl-C ends it"
printf 'echo the server ended with $?\r' >&4
until_true 30 shows 'the server ended with 0' || fail "Ctrl-C ends it with status 0"
printf 'exit\r' >&4
until_true 30 eval "! kill -0 $session 2> /dev/null" || fail "the connection is closed"
session=
if fetch "" 2> /dev/null; then fail "without the connection there is no page"; fi
echo "passed"
