#!/usr/bin/env bash
# Guess: pydicom writes a text of several lines so that it reads it back. With code extensions (Korean ISO 2022 IR 149, or Latin-1
#   with Latin-2) a line break ends what an escape sequence has begun (PS3.5 6.1.2.5.3), so that each line needs its own.
# Seen: it writes the escape sequence once, before the first line. From the second line on its own reader gives Latin-1 letters
#   for Korean and "£" for "Ł"; dcmdump refuses the file. No error, no warning. It happens as well to a text that
#   nobody has assigned: a right file, read, printed (str(d)) and saved, has lost its second line; not printed it keeps it. Names,
#   single lines, and Japanese in ISO 2022 IR 87 are right.
# Matters: comments, histories and report texts in Korean have several lines, and printing a data set is what scripts do. Whoever
#   edits a tag or anonymizes destroys text that was not meant, in UTF-8 copies made of it too. Make the data set UTF-8
#   (d.decode(), then Specific Character Set ISO_IR 192), or do not touch the text.
# Versions: pydicom 3.0.2, Debian dcmtk 3.6.7-9~deb12u4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
export PYTHONUTF8=1
venv/bin/python made_up.py ct1
cat >lines.py <<'END'
import pydicom

KOREAN, LATIN, JAPANESE = ["", "ISO 2022 IR 149"], ["ISO 2022 IR 100", "ISO 2022 IR 101"], ["", "ISO 2022 IR 87"]
LINES = "소견 없음\r\n추적 검사"


def write(name, character_set, text, **other):
    d = pydicom.dcmread("CT1")
    d.SpecificCharacterSet = character_set
    d.add_new("PatientComments", "LT", text)
    d.update(other)
    d.save_as(f"{name}.dcm")


def by_pydicom(name):
    return pydicom.dcmread(f"{name}.dcm").PatientComments.replace("\r\n", " / ")


write("assigned", KOREAN, LINES)
write("one-line", KOREAN, LINES.replace("\r\n", " "))
write("latin", LATIN, "Łódź\r\nŁódź")
write("japanese", JAPANESE, "一行\r\n二行")
write("right", KOREAN, b"\r\n".join(b"\x1b$)C" + line.encode("euc_kr") for line in LINES.split("\r\n")))
d = pydicom.dcmread("right.dcm")
d.PatientID = "OTHER"
d.save_as("edited.dcm")
d = pydicom.dcmread("right.dcm")
str(d)
d.save_as("printed.dcm")
d = pydicom.dcmread("right.dcm")
d.decode()
d.SpecificCharacterSet = "ISO_IR 192"
d.save_as("utf-8.dcm")
for name in ("assigned", "one-line", "latin", "japanese", "right", "edited", "printed", "utf-8"):
    print(f"{name}: {by_pydicom(name)}")
END
venv/bin/python -W error lines.py >seen.txt
said() {
    sed -n "s/^$1: //p" seen.txt
}
# by_dcmtk FILE: the text by dcmdump, whose output is UTF-8; nothing where it refuses.
by_dcmtk() {
    dcmdump +U8 +L +P PatientComments "$1" 2>/dev/null | tr -d '\r' | sed -e 's/.*\[//' -e 's/\].*//' | paste -sd/ | sed 's,/, / ,g'
}
kept="소견 없음 / 추적 검사" lost="소견 없음 / ÃßÀû °Ë»ç"
expect "two lines assigned, pydicom" "$(said assigned)" "$lost"
expect "two lines assigned, dcmdump" "$(by_dcmtk assigned.dcm)" ""
expect "one line assigned, pydicom" "$(said one-line)" "소견 없음 추적 검사"
expect "one line assigned, dcmdump" "$(by_dcmtk one-line.dcm)" "소견 없음 추적 검사"
expect "two lines in Latin-2, pydicom" "$(said latin)" "Łódź / £ód¼"
expect "two lines in Japanese, pydicom" "$(said japanese)" "一行 / 二行"
expect "a right file, pydicom" "$(said right)" "$kept"
expect "a right file, dcmdump" "$(by_dcmtk right.dcm)" "$kept"
expect "read, edited elsewhere and saved, pydicom" "$(said edited)" "$kept"
expect "read, printed and saved, pydicom" "$(said printed)" "$lost"
expect "read, printed and saved, dcmdump" "$(by_dcmtk printed.dcm)" ""
expect "made UTF-8, dcmdump" "$(by_dcmtk utf-8.dcm)" "$kept"
finish
