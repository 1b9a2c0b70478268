"""From the loader's name in a catalog entry to the conversion of its rows."""

from __future__ import annotations

from clinprompt.corpora.general import choices, glue, superglue
from clinprompt.corpora.general.row import Converter

CONVERTERS: dict[str, Converter] = {
    "glue_cola": glue.COLA,
    "glue_sst2": glue.SST2,
    "glue_mrpc": glue.MRPC,
    "glue_stsb": glue.STSB,
    "glue_qqp": glue.QQP,
    "glue_mnli": glue.MNLI,
    "glue_qnli": glue.QNLI,
    "glue_rte": glue.RTE,
    "glue_wnli": glue.WNLI,
    "superglue_boolq": superglue.BOOLQ,
    "superglue_cb": superglue.CB,
    "superglue_copa": superglue.COPA,
    "superglue_multirc": superglue.MULTIRC,
    "superglue_record": superglue.RECORD,
    "superglue_rte": glue.SUPERGLUE_RTE,
    "superglue_wic": superglue.WIC,
    "superglue_wsc": superglue.WSC,
    "mmlu": choices.MMLU,
    "boolq": choices.BOOLQ,
    "piqa": choices.PIQA,
    "siqa": choices.SIQA,
    "hellaswag": choices.HELLASWAG,
    "winogrande": choices.WINOGRANDE,
    "arc": choices.ARC,
    "openbookqa": choices.OPENBOOKQA,
}
