"""Laboratory tests and vital signs with units, and how to write a low, normal or high value."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from clinprompt.corpora.sample.words import Lexicon

Level = Literal["low", "normal", "high"]


@dataclass(frozen=True)
class Lab:
    """A test: its normal range, unit and the number of decimals it is reported with."""

    name: str
    low: float
    high: float
    unit: str
    decimals: int

    def value(self, level: Level, rng: Random) -> str:
        """A value of this level with its unit, like ``13.2 g/dL``. Values below zero do not occur."""
        width = self.high - self.low
        low, high = {
            "low": (self.low * 0.55, self.low * 0.92),
            "normal": (self.low + 0.1 * width, self.high - 0.1 * width),
            "high": (self.high * 1.1, self.high * 2.2),
        }[level]
        if self.name in _NARROW:  # vital values that do not double in the living
            low, high = {"low": (self.low * 0.88, self.low * 0.98), "high": (self.high * 1.02, self.high * 1.12)}.get(
                level, (low, high)
            )
        return f"{rng.uniform(low, high):.{self.decimals}f}{'' if self.unit == '%' else ' '}{self.unit}".strip()


_NARROW = {"temperature", "sodium", "serum sodium", "chloride", "oxygen saturation", "calcium", "magnesium"}
_TABLE = """
hemoglobin|12|16|g/dL|1
hematocrit|36|46|%|0
white blood cell count|4|11|x10^9/L|1
platelet count|150|400|x10^9/L|0
neutrophil count|2|7|x10^9/L|1
sodium|135|145|mmol/L|0
serum sodium|136|144|mmol/L|0
potassium|3.5|5.1|mmol/L|1
serum potassium|3.6|5.0|mmol/L|1
chloride|98|107|mmol/L|0
bicarbonate|22|29|mmol/L|0
calcium|8.6|10.2|mg/dL|1
magnesium|1.7|2.4|mg/dL|1
phosphate|2.5|4.5|mg/dL|1
creatinine|0.6|1.2|mg/dL|1
serum creatinine|0.7|1.3|mg/dL|2
blood urea nitrogen|8|20|mg/dL|0
glucose|70|100|mg/dL|0
fasting glucose|72|99|mg/dL|0
hemoglobin A1c|4.5|5.6|%|1
total cholesterol|140|199|mg/dL|0
LDL cholesterol|60|100|mg/dL|0
HDL cholesterol|40|60|mg/dL|0
triglycerides|60|150|mg/dL|0
ALT|10|40|U/L|0
AST|10|38|U/L|0
alkaline phosphatase|40|120|U/L|0
total bilirubin|0.3|1.2|mg/dL|1
direct bilirubin|0.1|0.3|mg/dL|1
albumin|3.5|5.0|g/dL|1
total protein|6.0|8.0|g/dL|1
lipase|15|60|U/L|0
amylase|30|110|U/L|0
C-reactive protein|1|5|mg/L|0
erythrocyte sedimentation rate|5|20|mm/h|0
procalcitonin|0.1|0.5|ng/mL|1
lactate|0.6|2.0|mmol/L|1
ferritin|30|200|ng/mL|0
serum iron|60|170|mcg/dL|0
transferrin saturation|20|45|%|0
vitamin B12|200|800|pg/mL|0
folate|4|20|ng/mL|1
vitamin D level|30|60|ng/mL|0
TSH|0.4|4.0|mIU/L|1
free T4|0.8|1.8|ng/dL|1
parathyroid hormone|15|65|pg/mL|0
morning cortisol|6|20|mcg/dL|0
prolactin|4|20|ng/mL|0
testosterone|300|900|ng/dL|0
PSA|0.5|4.0|ng/mL|1
troponin|2|14|ng/L|0
BNP|20|100|pg/mL|0
creatine kinase|40|200|U/L|0
D-dimer|100|500|ng/mL|0
INR|0.8|1.2||1
prothrombin time|11|13.5|seconds|1
fibrinogen|200|400|mg/dL|0
uric acid|3.5|7.0|mg/dL|1
ammonia|15|45|mcmol/L|0
digoxin level|0.8|2.0|ng/mL|1
lithium level|0.6|1.2|mmol/L|1
vancomycin trough|10|20|mcg/mL|0
CA-125|5|35|U/mL|0
CEA|0.5|3.0|ng/mL|1
reticulocyte count|0.5|2.0|%|1
LDH|120|240|U/L|0
heart rate|60|100|beats per minute|0
respiratory rate|12|18|breaths per minute|0
temperature|36.2|37.4|C|1
oxygen saturation|95|99|%|0
ejection fraction|55|70|%|0
body mass index|19|25|kg/m2|1
"""


def _lab_of(line: str) -> Lab:
    name, low, high, unit, decimals = line.split("|")
    return Lab(name, float(low), float(high), unit, int(decimals))


LABS = {lab.name: lab for lab in (_lab_of(line) for line in _TABLE.strip().splitlines())}
TESTS = Lexicon.of(LABS)
NO_HIGH = {"oxygen saturation", "ejection fraction", "transferrin saturation"}
"""Percentages that a doctor reports as low or normal."""
