#!/usr/bin/env bash
# Guess: dicomweb-client's DICOMfileClient, which offers the searches of its DICOMwebClient on a directory of files, finds with
#   StudyDate "20210101-20211231" the studies of 2021. A range is what that parameter of QIDO-RS is mostly used for (PS3.4
#   C.2.2.2.5); what it cannot do it refuses, or finds nothing.
# Seen: it leaves the filter out and returns every study, of any date: ranges of StudyDate and StudyTime, and "20210101-". The
#   same goes for every attribute that it has no column for, as StudyDescription: all studies match. A warning in the log of
#   Python is the only trace. A single date, names with wildcards and the other filters beside the range do work.
# Matters: code that selects by date, tried against a server, takes the whole archive when it is pointed at files, for a move,
#   say. Filter the answers again.
# Versions: dicomweb-client 0.61.2, pydicom 3.0.2, numpy 2.2.6.
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicomweb-client==0.61.2 pydicom==3.0.2 numpy==2.2.6
mkdir files
venv/bin/python made_up.py ct1 ct2
cat >years.py <<'END'
import pydicom

for name, year in (("CT1", 2020), ("CT2", 2021)):
    d = pydicom.dcmread(name)
    d.StudyInstanceUID += f".{year}"
    d.SeriesInstanceUID += f".{year}"
    d.StudyDate, d.StudyTime, d.PatientName = f"{year}0505", f"{year - 2010}0000", f"Made^{year}"
    d.StudyDescription = f"made up {year}"
    d.save_as(f"files/{name}.dcm")
END
venv/bin/python years.py
# search KEYWORD VALUE...: the years of the studies that match these filters.
cat >search.py <<'END'
import sys
from pathlib import Path

from dicomweb_client import DICOMfileClient

client = DICOMfileClient(Path("files").resolve().as_uri(), in_memory=True, update_db=True)
found = client.search_for_studies(search_filters=dict(zip(sys.argv[1::2], sys.argv[2::2])))
print(*sorted(study["00080020"]["Value"][0][:4] for study in found))
END
search() { venv/bin/python search.py "$@" 2>>log.txt; }
expect "no filter" "$(search)" "2020 2021"
expect "a day" "$(search StudyDate 20210505)" 2021
expect "a day on which nothing was made" "$(search StudyDate 20210506)" ""
expect "a name with a wildcard" "$(search PatientName '*2021')" 2021
expect "warnings so far" "$(grep -c 'skip search filter' log.txt || true)" 0
expect "the year 2021" "$(search StudyDate 20210101-20211231)" "2020 2021"
expect "a year without studies" "$(search StudyDate 19990101-19991231)" "2020 2021"
expect "since 2021" "$(search StudyDate 20210101-)" "2020 2021"
expect "a range of times" "$(search StudyTime 1030-1130)" "2020 2021"
expect "a description" "$(search StudyDescription 'made up 2021')" "2020 2021"
expect "the year 2021, and a name" "$(search StudyDate 20210101-20211231 PatientName '*2020')" 2020
expect "warnings" "$(grep -c 'skip search filter' log.txt)" 6
finish
