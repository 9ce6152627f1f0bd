#!/usr/bin/env bash
# scripts/quickstart with everything it calls replaced: which text a dataset is made of.
#   test_quickstart.sh SOURCE_DIR
set -euo pipefail

source_dir=$1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "FAILED: $1" >&2; [[ ! -f $place/output ]] || cat "$place/output" >&2; exit 1; }

mkdir -p "$place/scripts" "$place/bin" "$place/build/cpu/tools" "$place/texts/folder"
cp "$source_dir/scripts/quickstart" "$place/scripts/quickstart"
program=$place/build/cpu/tools/sinkscope
stand_in() { printf '#!/usr/bin/env bash\n%s\n' "$2" > "$1"; chmod +x "$1"; }
stand_in "$place/scripts/setup" 'exit 0'
stand_in "$place/bin/cmake" 'exit 0'
# tokenize TEXT --output DATASET ...: the dataset says which text it was made of.
stand_in "$program" 'if [[ $1 == tokenize ]]; then mkdir -p "$4" && echo "$2" > "$4/dataset.json"; fi'
quickstart() { PATH=$place/bin:$PATH "$place/scripts/quickstart" "$@" > "$place/output" 2>&1; }

echo "one text" > "$place/texts/a.txt"
echo "another text" > "$place/texts/b.txt"
cp "$place/texts/a.txt" "$place/texts/copy.txt"
cp "$place/texts/a.txt" "$place/texts/folder/a.txt"

quickstart --text "$place/texts/a.txt" || fail "a first text is taken"
[[ $(< "$place/data/quickstart/dataset.json") == */a.txt ]] || fail "the dataset is made of the text"
quickstart --text "$place/texts/a.txt" || fail "the same text goes on"
quickstart --text "$place/texts/copy.txt" || fail "the same content elsewhere goes on"
quickstart || fail "no text goes on"

quickstart --text "$place/texts/b.txt" && fail "another text is refused"
[[ $(wc -l < "$place/output") == 1 ]] || fail "with one message"
grep -qF "texts/b.txt: the dataset data/quickstart was made of another text, $place/texts/a.txt;" "$place/output" || fail "that names both texts"
grep -q -- '--name' "$place/output" || fail "and what to do"
echo "changed" >> "$place/texts/a.txt"
quickstart --text "$place/texts/a.txt" && fail "a text that has changed is refused"
quickstart --text "$place/texts/b.txt" --name other || fail "another text under another name is taken"
[[ $(< "$place/data/other/dataset.json") == */b.txt ]] || fail "and used"

quickstart --text "$place/texts/folder" --name folder || fail "a folder is taken"
quickstart --text "$place/texts/folder" --name folder || fail "and goes on"
echo "more" > "$place/texts/folder/b.txt"
quickstart --text "$place/texts/folder" --name folder && fail "a folder with a new file is refused"

# The fetched text holds nothing twice.
stand_in "$place/bin/npm" 'mkdir -p package/data && echo all > package/data/data.txt && echo one > package/data/chapter_1.txt && tar -czf novel.tgz package'
quickstart --name fetched || fail "a text is fetched"
[[ -f $place/.cache/text/novel/chapter_1.txt && ! -e $place/.cache/text/novel/data.txt ]] || fail "by chapters alone"

# The rule for names is the config's own, checked before anything is done.
pattern=$(sed -n "s/^name_pattern='\(.*\)'\$/\1/p" "$source_dir/scripts/quickstart")
[[ -n $pattern ]] && grep -qF "\"pattern\": \"$pattern\"" "$source_dir/configs/schema.json" || fail "names are those of the schema"
stand_in "$place/scripts/setup" 'echo set-up; exit 0'
for name in "my run" ../up /root .hidden a//b; do
  quickstart --name "$name" && fail "the name $name is refused"
  [[ $(wc -l < "$place/output") == 1 ]] && grep -qF -- "--name \"$name\": expected" "$place/output" || fail "before the set-up"
done
quickstart --text "$place/texts/b.txt" --name group/b-1 || fail "a name with a folder is taken"
[[ -f $place/data/group/b-1/dataset.json ]] || fail "and used"

rm "$place/data/other.text"
quickstart --text "$place/texts/b.txt" --name other && fail "a dataset of an unknown text is refused"
grep -q 'not recorded' "$place/output" || fail "and says so"
echo "passed"
