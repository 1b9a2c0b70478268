"""Radiology: examinations, their findings with the place and the conclusion, and their normal sentences."""

from __future__ import annotations

from dataclasses import dataclass

from clinprompt.corpora.sample.words import Lexicon

_LOBES = ("right upper lobe", "right middle lobe", "right lower lobe", "left upper lobe", "left lower lobe", "lingula")
_SIDES = ("left", "right")
_LEVELS = ("L3-L4", "L4-L5", "L5-S1", "L2-L3")
_ROOM = ("frontal lobe", "temporal lobe", "parietal lobe", "occipital lobe", "cerebellum", "basal ganglia")


@dataclass(frozen=True)
class Finding:
    """What is seen and how a report concludes from it.

    `seen` is a noun phrase, `concluded` what the impression says; both may hold ``{place}``. `normal` is the sentence
    that stands in a report without it.
    """

    seen: str
    concluded: str
    normal: str
    places: tuple[str, ...] = ("",)

    def placed(self) -> tuple[Finding, ...]:
        """The finding in each of its places."""
        return tuple(
            Finding(self.seen.format(place=p), self.concluded.format(place=p), self.normal) for p in self.places
        )


@dataclass(frozen=True)
class Examination:
    """A kind of examination: what it may be called, what it may show, and the impression when it shows nothing."""

    names: tuple[str, ...]
    findings: tuple[Finding, ...]
    clear: str


EXAMINATIONS = (
    Examination(
        ("Chest x-ray", "Chest radiograph", "Portable chest x-ray"),
        (
            Finding("consolidation in the {place}", "{place} pneumonia", "No consolidation.", _LOBES),
            Finding("a nodule in the {place}", "{place} pulmonary nodule", "No pulmonary nodule.", _LOBES),
            Finding(
                "blunting of the {place} costophrenic angle", "small {place} pleural effusion",
                "The costophrenic angles are sharp.", _SIDES,
            ),
            Finding("a large {place} pleural effusion", "large {place} effusion", "No pleural effusion.", _SIDES),
            Finding("a small {place} apical pneumothorax", "{place} pneumothorax", "No pneumothorax.", _SIDES),
            Finding("an enlarged cardiac silhouette", "cardiomegaly", "Heart size is normal."),
            Finding("diffuse interstitial thickening", "pulmonary edema", "The interstitium is normal."),
            Finding("flattened diaphragms and hyperinflation", "emphysema", "Lung volumes are normal."),
            Finding("linear opacity at the {place} base", "{place} basilar atelectasis", "No atelectasis.", _SIDES),
            Finding("a fracture of a {place} rib", "{place} rib fracture", "The ribs are intact.", _SIDES),
            Finding("hilar enlargement on both sides", "hilar lymphadenopathy", "The hila are normal."),
            Finding("a widened mediastinum", "possible aortic aneurysm", "The mediastinum is normal."),
        ),
        "No acute cardiopulmonary disease.",
    ),
    Examination(
        ("CT of the abdomen", "CT abdomen and pelvis", "Abdominal CT"),
        (
            Finding("a dilated appendix with fat stranding", "acute appendicitis", "The appendix is normal."),
            Finding("gallstones and a thick gallbladder wall", "acute cholecystitis", "The gallbladder is normal."),
            Finding("a stone in the {place} ureter", "{place} ureteral stone", "No ureteral stone.", _SIDES),
            Finding("dilation of the {place} renal pelvis", "{place} hydronephrosis", "No hydronephrosis.", _SIDES),
            Finding("dilated loops of small bowel", "small bowel obstruction", "The bowel is not dilated."),
            Finding("sigmoid wall thickening with diverticula", "acute diverticulitis", "No diverticulitis."),
            Finding("a nodular contour of the liver", "cirrhosis", "The liver contour is smooth."),
            Finding("low attenuation of the liver", "fatty liver", "The liver is of normal density."),
            Finding("an enlarged spleen", "splenomegaly", "The spleen is of normal size."),
            Finding("fluid around the pancreas", "acute pancreatitis", "The pancreas is normal."),
            Finding("free air under the diaphragm", "bowel perforation", "No free air."),
            Finding("a {place} adrenal mass", "{place} adrenal mass", "The adrenal glands are normal.", _SIDES),
            Finding("free fluid in the pelvis", "ascites", "No free fluid."),
        ),
        "No acute abdominal process.",
    ),
    Examination(
        ("Head CT", "CT of the head without contrast", "MRI of the brain"),
        (
            Finding("a hyperdense collection in the {place}", "{place} hemorrhage", "No hemorrhage.", _ROOM),
            Finding("restricted diffusion in the {place}", "acute {place} infarct", "No acute infarct.", _ROOM),
            Finding("a ring-enhancing lesion in the {place}", "{place} metastasis", "No mass.", _ROOM),
            Finding("a crescentic {place} collection", "{place} subdural hematoma", "No collection.", _SIDES),
            Finding("enlarged ventricles", "hydrocephalus", "The ventricles are normal in size."),
            Finding("periventricular white matter lesions", "small vessel disease", "The white matter is normal."),
            Finding("widened sulci", "brain atrophy", "The sulci are normal."),
            Finding("fluid in the {place} maxillary sinus", "{place} sinusitis", "The sinuses are clear.", _SIDES),
            Finding("midline shift to the {place}", "mass effect to the {place}", "No midline shift.", _SIDES),
        ),
        "No acute intracranial abnormality.",
    ),
    Examination(
        ("MRI of the lumbar spine", "Lumbar spine MRI", "CT of the lumbar spine"),
        (
            Finding("disc protrusion at {place}", "{place} disc herniation", "The discs are normal.", _LEVELS),
            Finding("narrowing of the canal at {place}", "{place} spinal stenosis", "The canal is patent.", _LEVELS),
            Finding("vertebral slippage at {place}", "{place} spondylolisthesis", "Alignment is normal.", _LEVELS),
            Finding("loss of vertebral height at {place}", "compression fracture at {place}", "No fracture.", _LEVELS),
            Finding("facet joint overgrowth", "facet arthropathy", "The facet joints are normal."),
            Finding("marrow signal change", "possible osteomyelitis", "Marrow signal is normal."),
        ),
        "Normal lumbar spine.",
    ),
    Examination(
        ("Knee MRI", "MRI of the knee"),
        (
            Finding("a tear of the {place} meniscus", "{place} meniscal tear", "The menisci are intact.",
                    ("medial", "lateral")),
            Finding("discontinuity of the anterior cruciate ligament", "anterior cruciate ligament tear",
                    "The cruciate ligaments are intact."),
            Finding("joint space narrowing with osteophytes", "osteoarthritis", "The joint space is preserved."),
            Finding("fluid in the suprapatellar pouch", "joint effusion", "No joint effusion."),
            Finding("a popliteal cyst", "Baker cyst", "No popliteal cyst."),
            Finding("patellar cartilage thinning", "chondromalacia of the patella", "The cartilage is preserved."),
        ),
        "Normal knee.",
    ),
    Examination(
        ("Leg ultrasound", "Venous duplex ultrasound of the leg"),
        (
            Finding("a noncompressible {place} femoral vein", "{place} femoral vein thrombosis",
                    "The femoral veins are compressible.", _SIDES),
            Finding("thrombus in the {place} popliteal vein", "{place} popliteal vein thrombosis",
                    "The popliteal veins are patent.", _SIDES),
            Finding("{place} saphenous vein reflux", "{place} venous insufficiency", "No venous reflux.", _SIDES),
            Finding("subcutaneous edema of the {place} calf", "{place} calf edema", "No edema.", _SIDES),
        ),
        "No deep vein thrombosis.",
    ),
)  # fmt: skip

PLACED = {
    examination.clear: {placed.seen: placed for finding in examination.findings for placed in finding.placed()}
    for examination in EXAMINATIONS
}
"""Impression of a clear examination → its findings in every place, by what is seen."""

SEEN = {clear: Lexicon.of(findings) for clear, findings in PLACED.items()}
