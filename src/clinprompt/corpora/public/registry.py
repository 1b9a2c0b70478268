"""Readers of the public corpora of the catalog, one function per corpus: folder → records per split.

Each takes the corpus's local folder and returns `{"train", "validation", "test"}`; `Record.group` is the unit that
splits must not separate. They raise CorpusError for a file that is not what the catalog pins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clinprompt.corpora.public import ner, nli, pairs, qa, relations, summarization
from clinprompt.corpora.splits import Splits

Loader = Callable[[Path], Splits]

LOADERS: dict[str, Loader] = {
    "ncbi_disease": ner.ncbi_disease,
    "bc5cdr": ner.bc5cdr,
    "bc2gm": ner.bc2gm,
    "psytar": ner.psytar,
    "neurotrialner": ner.neurotrialner,
    "maccrobat": ner.maccrobat,
    "e3c": ner.e3c,
    "chemprot": pairs.chemprot,
    "gad": pairs.gad,
    "ddi2013": pairs.ddi2013,
    "cdr_cid": relations.cdr_cid,
    "biored": relations.biored,
    "maccrobat_relations": relations.maccrobat_relations,
    "phee": relations.phee,
    "pubmedqa": qa.pubmedqa,
    "medqa": qa.medqa,
    "medmcqa": qa.medmcqa,
    "bioasq_yesno": qa.bioasq_yesno,
    "medbullets": qa.medbullets,
    "headqa": qa.headqa,
    "mediqa_rqe": nli.mediqa_rqe,
    "mqp": nli.mqp,
    "healthver": nli.healthver,
    "covidfact": nli.covidfact,
    "nli4ct": nli.nli4ct,
    "scinli": nli.scinli,
    "meqsum": summarization.meqsum,
    "cochrane": summarization.cochrane,
    "aci_bench": summarization.aci_bench,
    "mts_dialog": summarization.mts_dialog,
    "open_i": summarization.open_i,
}
