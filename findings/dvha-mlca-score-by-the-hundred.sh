#!/usr/bin/env bash
# Guess: a program that scores the complexity of RT plans gives the same plan the same score, whether its Final Cumulative Meterset
#   Weight is 1 or 100 (MU of a control point are Beam Meterset times weight by final weight, PS3.3 C.8.8.14.1), and whether each
#   control point repeats jaws that do not move, or only the first has them, as PS3.3 C.8.8.14.5 has it.
# Seen: dvha-mlca multiplies without dividing: with a final weight of 100 a beam of 200 MU has 20000, and the score is 100 times as
#   large. Where jaws are not repeated it takes a field of 400 x 400 mm from the second control point on, so that the area is 3000
#   mm2 for 1200, and the score another. rtplan-complexity carries jaws on, and of its results the estimated delivery time (100
#   times too long) and LS change with the weight. Neither warns; the total MU is right in both.
# Matters: both forms are allowed, and which one a plan has depends on the planning system. Scores of two systems, or before
#   and after an upgrade, are compared to find plans for extra measurements. Write weights from 0 to 1 and jaws into each
#   control point of a copy first.
# Versions: dvha-mlca 0.2.3.post1 (does not read a plan with pydicom 3) with pydicom 2.4.5, shapely 2.2.0 and numpy 2.2.6;
#   rtplan-complexity 1.1.0; pydicom 3.0.2 makes the plans (Python 3.10 or later).
. "$(dirname "$(readlink -f "$0")")/support.sh"
python_packages venv python3 dvha-mlca==0.2.3.post1 pydicom==2.4.5 shapely==2.2.0 numpy==2.2.6
python_packages other python3 rtplan-complexity==1.1.0 pydicom==3.0.2 numpy==2.2.6
other/bin/python made_up.py ct1
cat >plans.py <<'END'
import pydicom
from pydicom.dataset import Dataset

LEAVES, METERSET = 10, 200


def item(**values):
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return d


def device(kind, *positions):
    return item(RTBeamLimitingDeviceType=kind, LeafJawPositions=list(positions))


def control_point(number, final, with_jaws):
    half = 10 + 5 * number
    jaws = [device("ASYMX", -30, 30), device("ASYMY", -20, 20)] if with_jaws else []
    leaves = device("MLCX", *[-half] * LEAVES, *[half] * LEAVES)
    point = item(
        ControlPointIndex=number,
        CumulativeMetersetWeight=final * number / 2,
        BeamLimitingDevicePositionSequence=[*jaws, leaves],
    )
    if number == 0:
        point.NominalBeamEnergy, point.IsocenterPosition = 6, [0, 0, 0]
        point.GantryAngle = point.BeamLimitingDeviceAngle = point.PatientSupportAngle = 0
        point.GantryRotationDirection = "NONE"
        point.BeamLimitingDeviceRotationDirection = point.PatientSupportRotationDirection = "NONE"
    return point


def write(name, final, repeats):
    d = pydicom.dcmread("CT1")
    for keyword in [e.keyword for e in d.group_dataset(0x28)] + ["PixelData", "ImageType"]:
        del d[keyword]
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    d.Modality, d.RTPlanLabel, d.RTPlanDate, d.RTPlanTime = "RTPLAN", "made up", "", ""
    d.RTPlanGeometry, d.ApprovalStatus = "TREATMENT_DEVICE", "UNAPPROVED"
    d.FractionGroupSequence = [
        item(
            FractionGroupNumber=1,
            NumberOfFractionsPlanned=10,
            NumberOfBeams=1,
            NumberOfBrachyApplicationSetups=0,
            ReferencedBeamSequence=[item(ReferencedBeamNumber=1, BeamMeterset=METERSET, BeamDose=2)],
        )
    ]
    jaws = [item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=1) for kind in ("ASYMX", "ASYMY")]
    leaves = item(
        RTBeamLimitingDeviceType="MLCX",
        NumberOfLeafJawPairs=LEAVES,
        LeafPositionBoundaries=[10 * number - 50 for number in range(LEAVES + 1)],
    )
    beam = item(BeamNumber=1, BeamName="1", BeamType="DYNAMIC", RadiationType="PHOTON", TreatmentDeliveryType="TREATMENT")
    beam.TreatmentMachineName, beam.PrimaryDosimeterUnit, beam.SourceAxisDistance = "made up", "MU", 1000
    beam.NumberOfWedges = beam.NumberOfCompensators = beam.NumberOfBoli = beam.NumberOfBlocks = 0
    beam.BeamLimitingDeviceSequence = [*jaws, leaves]
    beam.FinalCumulativeMetersetWeight, beam.NumberOfControlPoints = final, 3
    beam.ControlPointSequence = [control_point(number, final, repeats or number == 0) for number in range(3)]
    d.BeamSequence = [beam]
    d.save_as(name)


write("1-repeated", 1, True)
write("100-repeated", 100, True)
write("1-once", 1, False)
END
other/bin/python plans.py
cat >by_mlca.py <<'END'
import sys

from mlca.mlc_analyzer import Plan

plan = Plan(sys.argv[1])
told, beam = plan.summary[0], plan.fx_group[0].beam[0].summary
area = " ".join(f"{mm2:g}" for mm2 in beam["area"])
print(f"plan {told['Plan MUs']} MU, beam {beam['cum_mu'][-1]:g} MU, areas {area}, score {told['Complexity Score(s)']}")
END
cat >by_rtplan_complexity.py <<'END'
import sys

from rtplan_complexity import calculate_plan_metrics, parse_rtplan

told = calculate_plan_metrics(parse_rtplan(sys.argv[1]))
print(f"plan {told.total_mu:g} MU, MCS {told.MCS:.4f}, area {told.MFA:g}, LS {told.LS:g}, time {told.total_delivery_time:g} s")
END
by_mlca() {
    venv/bin/python -W ignore by_mlca.py "$1"
}
by_rtplan_complexity() {
    other/bin/python by_rtplan_complexity.py "$1"
}
expect "weights to 1, dvha-mlca" "$(by_mlca 1-repeated)" "plan 200.0 MU, beam 200 MU, areas 800 1200 1600, score 0.133"
expect "weights to 100, dvha-mlca" "$(by_mlca 100-repeated)" "plan 200.0 MU, beam 20000 MU, areas 800 1200 1600, score 13.333"
expect "jaws once, dvha-mlca" "$(by_mlca 1-once)" "plan 200.0 MU, beam 200 MU, areas 800 3000 4000, score 0.118"
expect "weights to 1, rtplan-complexity" "$(by_rtplan_complexity 1-repeated)" "plan 200 MU, MCS 0.8571, area 12, LS 1, time 20 s"
expect "weights to 100, rtplan-complexity" "$(by_rtplan_complexity 100-repeated)" "plan 200 MU, MCS 0.8571, area 12, LS 0.01, time 2000 s"
expect "jaws once, rtplan-complexity" "$(by_rtplan_complexity 1-once)" "plan 200 MU, MCS 0.8571, area 12, LS 1, time 20 s"
finish
