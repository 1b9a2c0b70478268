"""Drugs by class, with the reasons they are given for, the doses, the frequencies and the harm they may do.

Plausible for text, and nothing more: this table is no source of medical knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass

from clinprompt.corpora.sample.words import Lexicon, listed


@dataclass(frozen=True)
class DrugClass:
    """What the members of one class of drugs share."""

    drugs: tuple[str, ...]
    reasons: tuple[str, ...]
    doses: tuple[str, ...]
    frequencies: tuple[str, ...]
    events: tuple[str, ...]


# One class a block, a line each: drugs, reasons, doses, frequencies, adverse events.
_TABLE = """
atorvastatin, simvastatin, rosuvastatin, pravastatin, lovastatin
hyperlipidemia, high cholesterol, coronary artery disease
10 mg, 20 mg, 40 mg
daily, at bedtime, every evening
muscle pain, elevated liver enzymes, rhabdomyolysis, muscle weakness

lisinopril, enalapril, ramipril, captopril, benazepril, quinapril
hypertension, high blood pressure, heart failure
5 mg, 10 mg, 20 mg
daily, twice daily, every morning
dry cough, angioedema, hyperkalemia, lip swelling

losartan, valsartan, irbesartan, candesartan, telmisartan
hypertension, diabetic nephropathy, heart failure
25 mg, 50 mg, 80 mg
daily, every morning, once a day
dizziness, hyperkalemia, low blood pressure

metoprolol, atenolol, carvedilol, bisoprolol, propranolol, nadolol
atrial fibrillation, angina, hypertension, essential tremor
12.5 mg, 25 mg, 50 mg, 100 mg
twice daily, daily, bid
bradycardia, fatigue, cold hands, vivid dreams

amlodipine, nifedipine, diltiazem, verapamil, felodipine
hypertension, angina, supraventricular tachycardia
5 mg, 10 mg, 60 mg
daily, once a day, every morning
ankle swelling, flushing, gum overgrowth, peripheral edema

furosemide, hydrochlorothiazide, bumetanide, torsemide, chlorthalidone, spironolactone
heart failure, fluid overload, leg edema, ascites
20 mg, 25 mg, 40 mg
daily, twice daily, every morning
hypokalemia, dehydration, gout flare, hyponatremia, hearing loss

warfarin, apixaban, rivaroxaban, dabigatran, enoxaparin, edoxaban
deep vein thrombosis, pulmonary embolism, atrial fibrillation
2.5 mg, 5 mg, 20 mg
daily, twice daily, every evening
nosebleed, gastrointestinal bleeding, intracranial hemorrhage, easy bruising, hematuria

aspirin, clopidogrel, ticagrelor, prasugrel
coronary artery disease, transient ischemic attack, peripheral artery disease
75 mg, 81 mg, 90 mg
daily, once a day, twice daily
easy bruising, melena, gastric ulcer, tinnitus

metformin, glipizide, glyburide, sitagliptin, empagliflozin, pioglitazone, glimepiride
type 2 diabetes, diabetes mellitus, hyperglycemia
5 mg, 10 mg, 100 mg, 500 mg, 1000 mg
daily, twice daily, with meals
diarrhea, hypoglycemia, lactic acidosis, metallic taste, yeast infection

insulin glargine, insulin lispro, insulin aspart, insulin detemir, liraglutide, semaglutide
type 1 diabetes, type 2 diabetes, steroid-induced hyperglycemia
10 units, 18 units, 24 units, 1 mg
at bedtime, daily, before meals
hypoglycemia, weight gain, nausea, pancreatitis

levothyroxine, liothyronine
hypothyroidism, Hashimoto thyroiditis
25 mcg, 50 mcg, 88 mcg, 112 mcg
daily, every morning
palpitations, tremor, weight loss

methimazole, propylthiouracil
hyperthyroidism, Graves disease
5 mg, 10 mg, 50 mg
daily, three times daily
agranulocytosis, skin rash, hepatitis

omeprazole, pantoprazole, esomeprazole, lansoprazole, famotidine, ranitidine
gastroesophageal reflux disease, heartburn, peptic ulcer disease, dyspepsia
20 mg, 30 mg, 40 mg
daily, before breakfast, twice daily
headache, hypomagnesemia, abdominal bloating, constipation

amoxicillin, ampicillin, penicillin, cephalexin, ceftriaxone, cefazolin, cefepime
pneumonia, sinusitis, cellulitis, streptococcal pharyngitis, otitis media
250 mg, 500 mg, 875 mg, 1 g
every 8 hours, three times daily, every 12 hours
skin rash, hives, anaphylaxis, diarrhea, oral thrush

azithromycin, clarithromycin, erythromycin, doxycycline, minocycline
bronchitis, pneumonia, Lyme disease, acne, rosacea
100 mg, 250 mg, 500 mg
daily, twice daily, every 12 hours
abdominal cramps, photosensitivity, QT prolongation, vomiting

ciprofloxacin, levofloxacin, moxifloxacin, nitrofurantoin, trimethoprim-sulfamethoxazole
urinary tract infection, pyelonephritis, cystitis, prostatitis
100 mg, 250 mg, 500 mg, 750 mg
every 12 hours, daily, twice daily
tendon rupture, Stevens-Johnson syndrome, insomnia, confusion, skin rash

vancomycin, linezolid, clindamycin, meropenem, gentamicin, metronidazole
sepsis, osteomyelitis, endocarditis, diverticulitis, bacterial vaginosis
500 mg, 600 mg, 1 g
every 8 hours, every 12 hours, three times daily
acute kidney injury, flushing, thrombocytopenia, Clostridium difficile colitis, hearing loss

fluconazole, itraconazole, voriconazole, terbinafine, nystatin
oral candidiasis, onychomycosis, fungal infection, aspergillosis
100 mg, 150 mg, 200 mg
daily, once a week, twice daily
visual disturbance, hepatitis, altered taste, elevated liver enzymes

acyclovir, valacyclovir, oseltamivir, famciclovir, ganciclovir
herpes zoster, influenza, genital herpes, shingles
75 mg, 400 mg, 500 mg, 1 g
twice daily, three times daily, every 8 hours
acute kidney injury, confusion, neutropenia, headache

prednisone, methylprednisolone, dexamethasone, hydrocortisone, prednisolone, budesonide
asthma exacerbation, rheumatoid arthritis, ulcerative colitis, giant cell arteritis, sarcoidosis
4 mg, 10 mg, 20 mg, 40 mg
daily, every morning, twice daily
weight gain, hyperglycemia, insomnia, mood swings, osteoporosis, avascular necrosis

methotrexate, hydroxychloroquine, sulfasalazine, leflunomide, azathioprine, adalimumab, infliximab
rheumatoid arthritis, psoriasis, lupus, Crohn disease, psoriatic arthritis
7.5 mg, 15 mg, 40 mg, 200 mg
once a week, daily, twice daily
mouth sores, bone marrow suppression, interstitial pneumonitis, retinopathy, leukopenia

ibuprofen, naproxen, diclofenac, celecoxib, meloxicam, indomethacin, ketorolac
osteoarthritis, low back pain, gout, ankylosing spondylitis, knee pain
25 mg, 50 mg, 200 mg, 400 mg, 500 mg
twice daily, as needed, three times daily
gastric ulcer, acute kidney injury, epigastric pain, fluid retention

acetaminophen, tramadol, oxycodone, morphine, hydrocodone, codeine, fentanyl
postoperative pain, cancer pain, chronic pain, tension headache
5 mg, 10 mg, 50 mg, 325 mg
as needed, every 6 hours, every 4 hours
constipation, drowsiness, respiratory depression, itching, urinary retention

gabapentin, pregabalin, duloxetine, carbamazepine
neuropathic pain, diabetic neuropathy, trigeminal neuralgia, fibromyalgia
30 mg, 75 mg, 100 mg, 300 mg
three times daily, at bedtime, twice daily
drowsiness, dizziness, ataxia, hyponatremia, leg swelling

phenytoin, levetiracetam, lamotrigine, valproate, topiramate, lacosamide
epilepsy, seizure disorder, migraine, bipolar disorder
25 mg, 100 mg, 250 mg, 500 mg
twice daily, daily, at bedtime
gum overgrowth, irritability, Stevens-Johnson syndrome, hair loss, kidney stones, double vision

sertraline, fluoxetine, citalopram, escitalopram, paroxetine, venlafaxine, bupropion, mirtazapine
depression, generalized anxiety disorder, panic disorder, obsessive-compulsive disorder
10 mg, 20 mg, 50 mg, 150 mg
daily, every morning, at bedtime
sexual dysfunction, hyponatremia, serotonin syndrome, dry mouth, night sweats

risperidone, olanzapine, quetiapine, haloperidol, aripiprazole, clozapine, lithium
schizophrenia, bipolar disorder, delirium, agitation, acute psychosis
2 mg, 5 mg, 25 mg, 300 mg
at bedtime, twice daily, daily
tardive dyskinesia, weight gain, neuroleptic malignant syndrome, akathisia, hand tremor, agranulocytosis

lorazepam, diazepam, clonazepam, alprazolam, zolpidem, trazodone
anxiety, insomnia, alcohol withdrawal, panic attacks
0.5 mg, 1 mg, 5 mg, 50 mg
at bedtime, as needed, twice daily
drowsiness, memory loss, falls, sleepwalking

levodopa, ropinirole, pramipexole, donepezil, memantine, rivastigmine
Parkinson disease, restless legs syndrome, Alzheimer disease, dementia
0.25 mg, 5 mg, 10 mg, 100 mg
three times daily, at bedtime, daily
hallucinations, orthostatic hypotension, dyskinesia, vivid dreams, bradycardia

albuterol, tiotropium, salmeterol, fluticasone, ipratropium, montelukast, theophylline
asthma, chronic obstructive pulmonary disease, wheezing, exercise-induced bronchospasm
1 puff, 2 puffs, 10 mg, 200 mg
every 6 hours, twice daily, as needed
tremor, hoarseness, oral thrush, tachycardia, palpitations

allopurinol, febuxostat, colchicine, probenecid
gout, uric acid kidney stones, recurrent pericarditis
0.6 mg, 40 mg, 100 mg, 300 mg
daily, twice daily, once a day
skin rash, diarrhea, leukopenia, drug reaction with eosinophilia

alendronate, risedronate, denosumab, zoledronic acid, calcitriol
osteoporosis, Paget disease of bone, hypercalcemia of malignancy
35 mg, 70 mg, 60 mg
once a week, every 6 months, every month
jaw osteonecrosis, esophagitis, hypocalcemia, bone pain

tamoxifen, letrozole, anastrozole, trastuzumab
breast cancer, metastatic breast cancer
1 mg, 2.5 mg, 20 mg
daily, once a day, every 3 weeks
hot flashes, endometrial cancer, joint stiffness, cardiomyopathy

cisplatin, carboplatin, paclitaxel, docetaxel, doxorubicin, cyclophosphamide, vincristine
lung cancer, ovarian cancer, lymphoma, bladder cancer
75 mg, 100 mg, 500 mg
every 3 weeks, weekly, every 4 weeks
febrile neutropenia, peripheral neuropathy, hearing loss, hemorrhagic cystitis, alopecia, cardiomyopathy, mucositis

ondansetron, metoclopramide, promethazine, prochlorperazine
nausea, chemotherapy-induced vomiting, motion sickness, gastroparesis
4 mg, 8 mg, 10 mg, 25 mg
every 8 hours, as needed, before meals
QT prolongation, muscle spasms, drowsiness, restlessness

cetirizine, loratadine, diphenhydramine, fexofenadine, hydroxyzine
allergic rhinitis, urticaria, hay fever, pruritus
10 mg, 25 mg, 50 mg, 180 mg
daily, at bedtime, as needed
dry mouth, urinary retention, drowsiness, blurred vision

amiodarone, digoxin, flecainide, sotalol
atrial fibrillation, ventricular tachycardia, atrial flutter
100 mg, 0.125 mg, 200 mg, 80 mg
daily, twice daily, once a day
pulmonary fibrosis, bradycardia, thyroiditis, blurred vision, corneal deposits

tamsulosin, finasteride, doxazosin
benign prostatic hyperplasia, enlarged prostate
0.4 mg, 5 mg, 4 mg
at bedtime, daily
orthostatic hypotension, erectile dysfunction, syncope

oxybutynin, tolterodine, mirabegron
overactive bladder, urge incontinence
5 mg, 4 mg, 25 mg
daily, twice daily
dry mouth, constipation, blurred vision, confusion

ferrous sulfate, folic acid, vitamin D, cyanocobalamin, potassium chloride
iron deficiency anemia, vitamin D deficiency, pernicious anemia, hypokalemia
325 mg, 1 mg, 1000 units, 20 mEq
daily, once a day, every other day
dark stools, constipation, stomach upset

tacrolimus, cyclosporine, mycophenolate, sirolimus
kidney transplant rejection, liver transplant rejection, lupus nephritis
1 mg, 2 mg, 250 mg, 500 mg
twice daily, every 12 hours, daily
hand tremor, nephrotoxicity, leukopenia, hirsutism, mouth sores

lactulose, polyethylene glycol, senna, bisacodyl, docusate
constipation, hepatic encephalopathy, opioid-induced constipation
5 mg, 17 g, 30 mL, 100 mg
daily, at bedtime, twice daily
abdominal cramps, diarrhea, hypokalemia
"""


def _class_of(block: str) -> DrugClass:
    drugs, reasons, doses, frequencies, events = (listed(line) for line in block.splitlines())
    return DrugClass(drugs, reasons, doses, frequencies, events)


CLASSES = tuple(_class_of(block) for block in _TABLE.strip().split("\n\n"))
CLASS_OF = {drug: group for group in CLASSES for drug in group.drugs}

DRUGS = Lexicon.of(drug for group in CLASSES for drug in group.drugs)
REASONS = Lexicon.of(reason for group in CLASSES for reason in group.reasons)
EVENTS = Lexicon.of(event for group in CLASSES for event in group.events)
