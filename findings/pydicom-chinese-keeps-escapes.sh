#!/usr/bin/env bash
# Guess: pydicom reads and writes names in ISO 2022 IR 58, the Chinese character set of PS3.5 annex K, as it does those in the
#   Japanese and Korean ones of annexes H and I; it lists the set among the ones that it knows.
# Seen: it leaves the escape sequences in: of the standard's example, 张^小东, each component begins with ESC and "$)A". So has
#   to_json, and a file made UTF-8 (ISO_IR 192) by pydicom has these four characters in its names for good. What it writes in
#   this set has no escape sequence at all: dcmdump refuses it, and pydicom itself reads ÕÅ^Ð¡¶« (Orthanc, by leniency, reads it).
#   There is no warning. DCMTK, Orthanc and dicom-character-set read the example, and pydicom what it writes in Japanese and
#   Korean.
# Matters: for archives and for teaching sets from China. The names look right where ESC is not drawn but for "$)A", and match
#   no request. Decode such text oneself: take out ESC $)A, then gb2312; or let dcmconv +U8 make the file UTF-8 first.
# Versions: pydicom 3.0.2, Debian dcmtk 3.6.7-9~deb12u4, orthanc 1.10.1+dfsg-2+deb12u1, dicom-character-set 1.0.5 (npm; Node.js
#   18 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian orthanc 1.10.1
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 pydicom==3.0.2
npm install --silent --no-fund --no-audit --ignore-scripts --prefix node dicom-character-set@1.0.5 >npm.log 2>&1 || { cat npm.log; exit 2; }
echo "dicom-character-set $(node -p "require('./node/node_modules/dicom-character-set/package.json').version")"
export PYTHONUTF8=1
venv/bin/python made_up.py ct1
cat >names.py <<'END'
import pydicom

EXAMPLE = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
for name, character_set, value in (
    ("example", ["", "ISO 2022 IR 58"], EXAMPLE),
    ("chinese", ["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东"),
    ("korean", ["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞"),
    ("japanese", ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
):
    d = pydicom.dcmread("CT1")
    d.SpecificCharacterSet = character_set
    d.add_new("PatientName", "PN", value)
    d.save_as(f"{name}.dcm")
d = pydicom.dcmread("example.dcm")
print("example as JSON:", d.to_json_dict()["00100010"]["Value"][0]["Ideographic"].replace("\x1b", "<ESC>"))
d.SpecificCharacterSet = "ISO_IR 192"
d.save_as("utf-8.dcm")
for name in ("example", "chinese", "korean", "japanese"):
    print(f"{name}:", str(pydicom.dcmread(f"{name}.dcm").PatientName).replace("\x1b", "<ESC>"))
END
venv/bin/python -W error names.py >seen.txt
said() {
    sed -n "s/^$1: //p" seen.txt
}
# by_dcmtk FILE: the patient's name by dcmdump, whose output is UTF-8.
by_dcmtk() {
    dcmdump +U8 +P PatientName "$1" 2>/dev/null | sed -n 's/.*\[\(.*\)\].*/\1/p'
}
# by_orthanc FILE: the same by Orthanc's REST API.
by_orthanc() {
    local id
    id=$(curl -s -X POST "http://127.0.0.1:$http/instances" --data-binary "@$1" | venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["ID"])')
    curl -s "http://127.0.0.1:$http/instances/$id/simplified-tags" | venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["PatientName"])'
    curl -s -X DELETE "http://127.0.0.1:$http/instances/$id" >/dev/null
}
cat >decode.mjs <<'END'
import { convertBytes } from "./node/node_modules/dicom-character-set/src/index.js";
const bytes = Buffer.from("Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "latin1");
console.log(convertBytes("\\ISO 2022 IR 58", bytes, { vr: "PN" }));
END
orthanc archive
example="Zhang^XiaoDong=张^小东="
expect "the example, dcmdump" "$(by_dcmtk example.dcm)" "$example"
expect "the example, Orthanc" "$(by_orthanc example.dcm)" "$example"
expect "the example, dicom-character-set" "$(node decode.mjs)" "$example"
expect "the example, pydicom" "$(said example)" 'Zhang^XiaoDong=<ESC>$)A张^<ESC>$)A小东'
expect "the example, pydicom's JSON" "$(said 'example as JSON')" '<ESC>$)A张^<ESC>$)A小东'
expect "the example, made UTF-8 by pydicom" "$(by_dcmtk utf-8.dcm | tr '\033' '~')" 'Zhang^XiaoDong=~$)A张^~$)A小东'
dcmconv +U8 example.dcm converted.dcm
name=$(venv/bin/python -c 'import pydicom; print(pydicom.dcmread("converted.dcm").PatientName)')
expect "the example, made UTF-8 by dcmconv, pydicom" "$name" "Zhang^XiaoDong=张^小东"
expect "written by pydicom, pydicom" "$(said chinese)" "Zhang^XiaoDong=ÕÅ^Ð¡¶«"
expect "written by pydicom, dcmdump" "$(by_dcmtk chinese.dcm)" ""
expect "written by pydicom, Orthanc" "$(by_orthanc chinese.dcm)" "Zhang^XiaoDong=张^小东"
expect "Korean, written by pydicom, pydicom" "$(said korean)" "Hong^Gildong=洪^吉洞"
expect "Korean, written by pydicom, Orthanc" "$(by_orthanc korean.dcm)" "Hong^Gildong=洪^吉洞"
expect "Japanese, written by pydicom, pydicom" "$(said japanese)" "Yamada^Tarou=山田^太郎"
finish
