#!/usr/bin/env bash
# Guess: each answer of a C-FIND describes another match, and a range that is open at one side is a range (PS3.4 C.2.2.2.5).
# Seen: tiny-pacs sends as many answers as there are matches, and every one of them is the last match, at each level. One
#   match alone is right. Of the ranges of Study Date only those with both ends work: "20200601-" finds nothing, and
#   "-20200601" finds also the study that has no date. The final status is 0000.
# Matters: a check of what has arrived by C-FIND finds the right number of instances and all but one of them missing. A list for
#   C-MOVE moves one study several times, and the others never. Ask for each UID by itself.
# Versions: tiny_pacs 0.4.1 on pynetdicom2 0.9.8 (Python 3.12 or later), Debian dcmtk 3.6.7-9~deb12u4 sends and asks.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv "$(newer_python)" tiny-pacs==0.4.1 pynetdicom2==0.9.8 pydicom==3.0.2
venv/bin/python made_up.py ct1 ct2 ct3 ct4
cat >studies.py <<'END'
import pydicom

# Study ID and date; the first study has two instances.
for number, (study, date) in enumerate((("A", "20200110"), ("A", "20200110"), ("B", "20200620"), ("C", "")), 1):
    d = pydicom.dcmread(f"CT{number}")
    d.StudyInstanceUID += f".{ord(study)}"
    d.SeriesInstanceUID += f".{ord(study)}"
    d.StudyID, d.StudyDate = study, date
    d.save_as(f"CT{number}")
END
venv/bin/python studies.py
venv/bin/tiny-pacs config -o tiny.yml
port=$(free_port)
serve "$port" venv/bin/tiny-pacs run -c tiny.yml -p "$port"
expect "dcmsend's exit code" "$(status_of dcmsend -aec TINY_PACS 127.0.0.1 "$port" CT1 CT2 CT3 CT4)" 0
# studies [KEY]: the Study IDs of the answers, and the final status.
studies() {
    findscu -v -S -aec TINY_PACS -k QueryRetrieveLevel=STUDY -k StudyInstanceUID -k StudyID ${1:+-k "$1"} 127.0.0.1 "$port" 2>&1 |
        tr -d '\0' | sed '1,/Find Response: 1\|Final Find/{/Final Find/!d}' >output.txt
    echo "$(sed -n 's/.*(0020,0010) SH \[\(.\).*/\1/p' output.txt | paste -sd' ')," \
        "$(sed -n 's/.*Final Find Response (\(.*\))/\1/p' output.txt)"
}
expect "a study by its date" "$(studies StudyDate=20200110)" "A, Success"
expect "a closed range" "$(studies StudyDate=20200601-20200701)" "B, Success"
expect "from a date on" "$(studies StudyDate=20200601-)" ", Success"
# counts [KEY]: how many answers there are, and how many different ones.
counts() {
    local found
    found=$(studies "$@" | grep -o '\b[ABC]\b')
    echo "$(wc -l <<<"$found"), $(sort -u <<<"$found" | wc -l)"
}
expect "answers for the three studies, different ones" "$(counts)" "3, 1"
expect "up to a date: answers, different ones" "$(counts StudyDate=-20200601)" "2, 1"
instances() {
    findscu -v -S -aec TINY_PACS -k QueryRetrieveLevel=IMAGE -k "StudyInstanceUID=$1" -k "SeriesInstanceUID=$2" \
        -k SOPInstanceUID 127.0.0.1 "$port" 2>&1 | tr -d '\0' | sed -n 's/.*(0008,0018) UI \[\([^]]*\)\].*/\1/p'
}
root=1.2.826.0.1.3680043.10.9999.1
found=$(instances $root.65 $root.1.65)
expect "answers for two instances, different ones" "$(wc -l <<<"$found"), $(sort -u <<<"$found" | wc -l)" "2, 1"
finish
