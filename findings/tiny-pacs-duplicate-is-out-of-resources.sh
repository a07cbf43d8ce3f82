#!/usr/bin/env bash
# Guess: an archive that gets an instance a second time, byte for byte the same, answers 0000 as DCMTK, Orthanc, dcm4che and
#   pynetdicom do, or at least 0111 (duplicate SOP instance).
# Seen: tiny-pacs answers A700, "refused: out of resources", in its default configuration (overwrite: false), to the
#   same file sent twice.
# Matters: A700 tells a sender to wait and to try again. A migration that is started again, or that sends again what was in
#   flight when a connection broke, waits for room that is there, and never ends what is already stored. Set overwrite: true.
# Versions: tiny_pacs 0.4.1 on pynetdicom2 0.9.8 (Python 3.12 or later), Debian dcmtk 3.6.7-9~deb12u4 as the sender.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv "$(newer_python)" tiny-pacs==0.4.1 pynetdicom2==0.9.8 pydicom==3.0.2
venv/bin/python made_up.py ct1
send() { status_of storescu -v -aec TINY_PACS 127.0.0.1 "$port" CT1; }
answer() { sed -n 's/.*Received Store Response (\(.*\))/\1/p' output.txt; }

venv/bin/tiny-pacs config -o default.yml
port=$(free_port)
serve "$port" venv/bin/tiny-pacs run -c default.yml -p "$port"
expect "the first time" "$(send) $(answer)" "0 Success"
expect "the second time" "$(send) $(answer)" "167 Refused: OutOfResources"

sed 's/overwrite: false/overwrite: true/' default.yml >overwrite.yml
port=$(free_port)
serve "$port" venv/bin/tiny-pacs run -c overwrite.yml -p "$port"
expect "with overwrite, the first time" "$(send) $(answer)" "0 Success"
expect "with overwrite, the second time" "$(send) $(answer)" "0 Success"
finish
