# block.sh FILE, with lines on stdin: makes these the lines of our block in FILE, which goes when
# there are none; every other line stays as it is.
set -eu
file=$1
[ ! -L "$file" ] || die "$file is a symbolic link: not changed"
old=/dev/null
[ ! -e "$file" ] || old=$file
new=$(mktemp "$file.strongbox-XXXXXX")
trap 'rm -f "$new"' EXIT
lines=$(cat)
case $(grep -nxF -e "$BLOCK_BEGIN" -e "$BLOCK_END" "$old" | cut -d: -f2- | tr '\n' '/') in
    '' | "$BLOCK_BEGIN/$BLOCK_END/") ;;
    *) die "$file: the lines '$BLOCK_BEGIN' and '$BLOCK_END' are not one pair: put that right by hand" ;;
esac
{
    awk -v b="$BLOCK_BEGIN" -v e="$BLOCK_END" '
        $0 == b { ours = 1 }
        !ours { print }
        $0 == e { ours = 0 }' "$old"
    [ -z "$lines" ] || printf '%s\n' "$BLOCK_BEGIN" "$lines" "$BLOCK_END"
} >"$new"
if [ -e "$file" ]; then
    chown --reference="$file" "$new"
    chmod --reference="$file" "$new"
else
    chmod 644 "$new"
fi
sync "$new"
mv -fT "$new" "$file"
systemctl daemon-reload
