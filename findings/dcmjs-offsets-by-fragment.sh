#!/usr/bin/env bash
# Guess: dcmjs, which reads a file and writes it unchanged, leaves encapsulated pixel data alone, or at least readable: the Basic
#   Offset Table, if there is one, has an entry for each frame (PS3.5 A.4).
# Seen: where the table was empty and frames have several fragments, it writes a table with an entry for each fragment: 10
#   entries for two frames, 5 for a single one. What reads by frames now finds parts of one: pydicom cannot decode the image,
#   and its fragments are called frames. DCMTK and GDCM do not look at the table and read it. With a table in the input, dcmjs
#   joins the fragments and writes a right one.
# Matters: an empty table and several fragments for each frame are both common. After an edit of the header by a tool on dcmjs,
#   such as an anonymizer in the browser, images show in one program and not in the next. Have a table written before (as
#   pydicom's encapsulate does), or the fragments joined.
# Versions: dcmjs 0.52.2 (npm; Node.js 18 or later), Debian dcmtk 3.6.7-9~deb12u4, libgdcm-tools 3.0.21-1, pydicom 3.0.2 with
#   pylibjpeg 2.1.0, pylibjpeg-libjpeg 2.5.0 and numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
debian libgdcm-tools 3.0.21
command -v npm >/dev/null || missing "npm is not installed"
python_packages venv python3 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 numpy==2.2.6
npm install --silent --no-fund --no-audit --prefix node dcmjs@0.52.2 >npm.log 2>&1 || { cat npm.log; exit 2; }
echo "node $(node --version), dcmjs $(node -p "require('./node/node_modules/dcmjs/package.json').version")"

venv/bin/python made_up.py ct1
cat >frames.py <<'END'
import numpy
import pydicom

noise = numpy.random.default_rng(1)
for frames in 1, 2:
    d = pydicom.dcmread("CT1")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.2"
    d.Modality, d.NumberOfFrames, d.Rows, d.Columns = "OT", frames, 128, 128
    d.PixelData = noise.integers(0, 256, (frames, 128, 128), dtype=numpy.uint8).tobytes()
    d.save_as(f"raw{frames}.dcm")
END
venv/bin/python frames.py
cat >rewrite.js <<'END'
const fs = require('fs');
const dcmjs = require('./node/node_modules/dcmjs');
const file = fs.readFileSync(process.argv[2]);
const read = dcmjs.data.DicomMessage.readFile(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
fs.writeFileSync(process.argv[3], Buffer.from(read.write()));
END
cat >read.py <<'END'
import sys

import numpy
import pydicom
from pydicom.encaps import parse_basic_offsets, parse_fragments


def right(path):
    try:
        return "right" if numpy.array_equal(pydicom.dcmread(path).pixel_array, raw) else "wrong"
    except RuntimeError:
        return "cannot decode"


path, raw = sys.argv[1], pydicom.dcmread(sys.argv[2]).pixel_array
d = pydicom.dcmread(path)
fragments, _ = parse_fragments(d.PixelData)
print(len(parse_basic_offsets(d.PixelData)), "offsets,", fragments - 1, "fragments, pydicom", right(path), end=", ")
print("DCMTK", right("by-dcmtk.dcm"), end=", ")
print("GDCM", right("by-gdcm.dcm"))
END
# told FILE FRAMES: the pixel data's form, and what becomes of it.
told() {
    dcmdjpeg "$1" by-dcmtk.dcm
    gdcmconv --raw "$1" by-gdcm.dcm
    venv/bin/python read.py "$1" "raw$2.dcm" 2>/dev/null
    rm -f by-dcmtk.dcm by-gdcm.dcm
}
for frames in 1 2; do
    # Fragments of 4 KB at most, with an empty offset table and with a table.
    dcmcjpeg +fs 4 -ot raw$frames.dcm empty$frames.dcm
    dcmcjpeg +fs 4 +ot raw$frames.dcm table$frames.dcm
    node rewrite.js empty$frames.dcm rewritten-empty$frames.dcm
    node rewrite.js table$frames.dcm rewritten-table$frames.dcm
done
fine="pydicom right, DCMTK right, GDCM right"
expect "one frame, no table" "$(told empty1.dcm 1)" "0 offsets, 5 fragments, $fine"
expect "rewritten" "$(told rewritten-empty1.dcm 1)" "5 offsets, 5 fragments, pydicom cannot decode, DCMTK right, GDCM right"
expect "two frames, no table" "$(told empty2.dcm 2)" "0 offsets, 10 fragments, $fine"
expect "rewritten" "$(told rewritten-empty2.dcm 2)" "10 offsets, 10 fragments, pydicom cannot decode, DCMTK right, GDCM right"
expect "two frames, a table" "$(told table2.dcm 2)" "2 offsets, 10 fragments, $fine"
expect "rewritten" "$(told rewritten-table2.dcm 2)" "2 offsets, 2 fragments, $fine"
finish
