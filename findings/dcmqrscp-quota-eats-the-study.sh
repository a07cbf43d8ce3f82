#!/usr/bin/env bash
# Guess: dcmqrscp refuses (A700) an instance for which a study has no room under its storage area's quota, "(studies, bytes per
#   study)".
# Seen: it answers 0000 to every instance, and makes room by deleting older instances of the very study that is being received.
#   A study of 8 instances of 0.3 MB, sent in one association under a limit of 1 MB, ends with 3 of them. dcmsend counts 8
#   successes; only dcmqrscp's own console tells of the files that it deletes.
# Matters: the sample configuration has a limit of 1024 MB, and one CT of thin slices or one long ultrasound loop is over that.
#   Give more bytes than the largest study has, and ask with C-FIND afterwards.
# Versions: Debian dcmtk 3.6.7-9~deb12u4; pydicom 3.0.2 makes the instances.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pydicom==3.0.2
mkdir instances database
(cd instances && ../venv/bin/python ../made_up.py ct1 ct2 ct3 ct4 ct5 ct6 ct7 ct8)
venv/bin/python -c '
from pathlib import Path
import pydicom
for path in Path("instances").iterdir():
    instance = pydicom.dcmread(path)
    instance.Rows = instance.Columns = 548
    instance.PixelData = bytes(548 * 548)
    instance.save_as(path)'

port=$(free_port)
cat >dcmqrscp.cfg <<END
NetworkTCPPort = $port
MaxPDUSize = 16384
MaxAssociations = 8
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQRSCP $work/database RW (10, 1mb) ANY
AETable END
END
serve "$port" dcmqrscp -c dcmqrscp.cfg
expect "dcmsend's exit code" "$(status_of dcmsend -v -aec DCMQRSCP 127.0.0.1 "$port" instances/*)" 0
expect "instances answered with 0000" "$(sed -n 's/.*with status SUCCESS *: //p' output.txt)" 8
study=1.2.826.0.1.3680043.10.9999.1
status_of findscu -v -S -aec DCMQRSCP -k QueryRetrieveLevel=IMAGE -k "StudyInstanceUID=$study" \
    -k "SeriesInstanceUID=$study.1" -k SOPInstanceUID 127.0.0.1 "$port" >/dev/null
expect "instances found afterwards" "$(grep -ac 'Find Response.*Pending' output.txt)" 3
expect "files that are left" "$(find database -name '*.dcm' | wc -l)" 3
expect "dcmqrscp tells of it on its own console" "$(grep -q 'Deleting file' "server-$port.log" && echo yes)" yes
finish
