#!/usr/bin/env bash
# Guess: dcmjs-dimse's client sends a file as it is when the SCP takes the file's own transfer syntax, or at most converts text
#   to UTF-8.
# Seen: it sends a data set of its own making. Private elements are gone, text is converted to UTF-8, decimal and integer strings
#   are rewritten ("040.0" becomes "40", "007" becomes "7"), elements with VR OV arrive as UN. The SOP Instance UID stays, the
#   answer is 0000; a line "Unknown name in dataset", with the value, is the only trace.
# Matters: what vendors keep in private elements (MR diffusion, PET factors, ultrasound regions) is lost on the way, and every
#   checksum differs. dcmjs-dimse is for small tools, not for moving an archive.
# Versions: dcmjs-dimse 0.3.3 (npm; Node.js 18 or later), Debian dcmtk 3.6.7-9~deb12u4 as the SCP (storescp +B writes what it
#   receives) and, for comparison, as a sender; pydicom 3.0.2.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 pydicom==3.0.2
npm install --silent --no-fund --no-audit --prefix node dcmjs-dimse@0.3.3 >npm.log 2>&1 || { cat npm.log; exit 2; }
echo "node $(node --version), dcmjs-dimse $(node -p "require('./node/node_modules/dcmjs-dimse/package.json').version")"

venv/bin/python made_up.py ct1
venv/bin/python - <<'END'
import pydicom

d = pydicom.dcmread("CT1")
d.SpecificCharacterSet = "ISO_IR 100"
d.PatientName = "M\u00fcller^Made^Up"
d.SliceThickness = "040.0"
d.AcquisitionNumber = "007"
d.private_block(0x0009, "MADE UP", create=True).add_new(0x01, "LO", "a private value")
d.add_new(0x00720081, "OV", bytes(16))  # Selector OV Value
d.save_as("CT1", enforce_file_format=True)
END
cat >send.js <<'END'
const { Client, requests } = require('./node/node_modules/dcmjs-dimse');
const client = new Client();
const request = new requests.CStoreRequest(process.argv[3]);
request.on('response', (response) => console.log('answer', response.getStatus()));
// The SCP accepts explicit VR little endian, the file's own transfer syntax, and nothing else.
client.addRequest(request);
client.send('127.0.0.1', Number(process.argv[2]), 'DCMJS', 'SCP');
END
cat >show.py <<'END'
import sys
from pathlib import Path

import pydicom
from pydicom.filebase import DicomBytesIO

(path,) = Path(sys.argv[1]).iterdir()
d = pydicom.dcmread(path)
print(
    d.file_meta.TransferSyntaxUID.name,
    d.get_item("SpecificCharacterSet").value,
    d.get_item("PatientName").value,
    d.get_item("SliceThickness").value,
    d.get_item("AcquisitionNumber").value,
    "private" if any(tag.is_private for tag in d.keys()) else "no private",
    d.get_item(0x00720081).VR,
    sep=" | ",
)
END
# The profile accepts one transfer syntax, so that nobody has to convert.
cat >explicit.cfg <<'END'
[[TransferSyntaxes]]
[Explicit]
TransferSyntax1 = LittleEndianExplicit
[[PresentationContexts]]
[CT]
PresentationContext1 = CTImageStorage\Explicit
[[Profiles]]
[Default]
PresentationContexts = CT
END
mkdir by-storescu by-dcmjs
port=$(free_port)
serve "$port" storescp +B -xf explicit.cfg Default -od by-storescu "$port"
expect "storescu's exit code" "$(status_of storescu 127.0.0.1 "$port" CT1)" 0
expect "storescu's data set" "$(venv/bin/python show.py by-storescu)" \
    "Explicit VR Little Endian | ISO_IR 100 | b'M\\xfcller^Made^Up' | b'040.0 ' | b'007 ' | private | OV"
port=$(free_port)
serve "$port" storescp +B -xf explicit.cfg Default -od by-dcmjs "$port"
expect "dcmjs-dimse's exit code" "$(status_of node send.js "$port" CT1)" 0
expect "its answer" "$(grep answer output.txt)" "answer 0"
expect "its traces" "$(grep -c 'Unknown name in dataset 0009' output.txt)" 2
expect "dcmjs-dimse's data set" "$(venv/bin/python show.py by-dcmjs)" \
    "Explicit VR Little Endian | ISO_IR 192 | b'M\\xc3\\xbcller^Made^Up ' | b'40' | b'7 ' | no private | UN"
finish
