#!/usr/bin/env bash
# Guess: dicom-ecg-plot, which labels a lead by its code, knows the codes that the standard gives for the leads (CID 3001 of
#   PS3.16: MDC 2:1 is I, 2:2 is II, 2:3 is V1, 2:61 is III), or falls back on the Code Meaning. Values are sample times
#   sensitivity plus Channel Baseline, which is in the unit of the channel (PS3.3 C.10.9).
# Seen: its table counts through in the order of the paper: 2:3 is III, 2:4 aVR, up to 2:8 for V2. So of an ECG coded by CID 3001
#   V1 to V6 are drawn under the names III, aVR, aVL, aVF, V1, V2. The real III to aVF, whose codes it does not know, keep their
#   names: four names stand there twice, and V3 to V6 not at all. Codes of SCPECG are named rightly. The baseline is added before
#   the sensitivity: 200 times 5 plus 100 uV is drawn as 1500, not 1100. Nothing is said.
# Matters: an ECG is read by its labels, and what V1 shows is another finding when it stands under III. The program makes PDFs
#   of ECGs for viewers that have no waveforms. Compare the labels with the Channel Source Sequence; with a code that the program
#   does not know the Code Meaning is drawn.
# Versions: dicom-ecg-plot 1.4.1, pydicom 3.0.2, matplotlib 3.10.0, numpy 2.2.6 (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dicom-ecg-plot==1.4.1 pydicom==3.0.2 matplotlib==3.10.0 numpy==2.2.6
venv/bin/python made_up.py ct1
cat >leads.py <<'END'
import numpy
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SAMPLES, SENSITIVITY, BASELINE, SAMPLE = 5000, 5, 100, 200
BY_LEAD = {"aVR": "AvrAugmentedVoltageRight", "aVL": "AvlAugmentedVoltageLeft", "aVF": "AvfAugmentedVoltageFoot"}


def coded(value, scheme, meaning):
    d = Dataset()
    d.CodeValue, d.CodingSchemeDesignator, d.CodeMeaning = value, scheme, meaning
    return d


def by_mdc(lead):
    code = getattr(codes.cid3001, BY_LEAD.get(lead, f"Lead{lead}"))
    return coded(code.value, code.scheme_designator, f"Lead {lead}")


def by_scpecg(lead):
    number = {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}.get(lead)
    number = number or ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"].index(lead) + 1
    return coded(f"5.6.3-9-{number}", "SCPECG", f"Lead {lead}")


def write(name, source):
    d = pydicom.dcmread("CT1")
    for keyword in [e.keyword for e in d.group_dataset(0x28)] + ["PixelData", "ImageType"]:
        del d[keyword]
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    d.Modality, d.AcquisitionContextSequence, d.AcquisitionDateTime = "ECG", [], "20200101120000"
    waveform = Dataset()
    waveform.WaveformOriginality, waveform.SamplingFrequency = "ORIGINAL", 500
    waveform.NumberOfWaveformChannels, waveform.NumberOfWaveformSamples = len(LEADS), SAMPLES
    waveform.WaveformBitsAllocated, waveform.WaveformSampleInterpretation = 16, "SS"
    waveform.ChannelDefinitionSequence = []
    for lead in LEADS:
        channel = Dataset()
        channel.ChannelSourceSequence, channel.WaveformBitsStored = [source(lead)], 16
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = SENSITIVITY, 1
        channel.ChannelBaseline, channel.ChannelSensitivityUnitsSequence = BASELINE, [coded("uV", "UCUM", "microvolt")]
        waveform.ChannelDefinitionSequence.append(channel)
    waveform.add_new("WaveformData", "OW", numpy.full(SAMPLES * len(LEADS), SAMPLE, "<i2").tobytes())
    d.WaveformSequence, d.WaveformAnnotationSequence = [waveform], []
    d.save_as(name)


write("mdc", by_mdc)
write("scpecg", by_scpecg)
END
cat >draw.py <<'END'
import re
import sys

import matplotlib
import pydicom
from ecg import ECG
from ecg.processor import extract_signals
from ecg.reader import DicomECGReader

matplotlib.rcParams["svg.fonttype"] = "none"
LABEL = re.compile(r"<text[^>]*>(I|II|III|aVR|aVL|aVF|V[1-6])</text>")
d = pydicom.dcmread(sys.argv[1])
channels = d.WaveformSequence[0].ChannelDefinitionSequence
with ECG(sys.argv[1]) as ecg:
    ecg.draw("12x1")
    labels = LABEL.findall(ecg.save(outformat="svg").decode())
print("codes:", *(channel.ChannelSourceSequence[0].CodeValue for channel in channels))
print("labels:", *labels)
print("pydicom:", *{f"{value:g}" for value in d.waveform_array(0).ravel()}, "uV")
# The program smooths what it draws, which begins from 0.
drawn = extract_signals(DicomECGReader(sys.argv[1]))
print("drawn:", *{f"{1000 * value:.0f}" for value in drawn[:, -1]}, "uV")
END
venv/bin/python leads.py
# said WHAT FILE
said() {
    venv/bin/python draw.py "$2" 2>/dev/null | sed -n "s/^$1: //p"
}
expect "the leads' codes by CID 3001" "$(said codes mdc)" "2:1 2:2 2:61 2:62 2:63 2:64 2:3 2:4 2:5 2:6 2:7 2:8"
expect "their labels" "$(said labels mdc)" "I II III aVR aVL aVF III aVR aVL aVF V1 V2"
expect "labels of codes of SCPECG" "$(said labels scpecg)" "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6"
expect "sample 200, sensitivity 5, baseline 100, pydicom" "$(said pydicom mdc)" "1100 uV"
expect "the same, as it is drawn" "$(said drawn mdc)" "1500 uV"
finish
