"""Lexicons of diseases, symptoms, body parts, procedures and daily life, written for this sample."""

from __future__ import annotations

from clinprompt.corpora.sample.words import Lexicon, listed

DISEASES = Lexicon.of(
    listed("""
    hypertension, type 2 diabetes, type 1 diabetes, asthma, chronic obstructive pulmonary disease, atrial fibrillation,
    coronary artery disease, heart failure, myocardial infarction, aortic stenosis, mitral regurgitation, pericarditis,
    endocarditis, cardiomyopathy, pulmonary hypertension, peripheral artery disease, deep vein thrombosis,
    pulmonary embolism, ischemic stroke, transient ischemic attack, subarachnoid hemorrhage, epilepsy, migraine,
    multiple sclerosis, Parkinson disease, Alzheimer disease, amyotrophic lateral sclerosis, myasthenia gravis,
    Guillain-Barre syndrome, bacterial meningitis, encephalitis, Bell palsy, carpal tunnel syndrome,
    peripheral neuropathy, pneumonia, tuberculosis, bronchiectasis, cystic fibrosis, sarcoidosis, lung cancer,
    pulmonary fibrosis, pleurisy, obstructive sleep apnea, influenza, bronchitis, sinusitis, allergic rhinitis,
    gastroesophageal reflux disease, peptic ulcer disease, gastritis, celiac disease, Crohn disease,
    ulcerative colitis, diverticulitis, irritable bowel syndrome, appendicitis, cholecystitis, pancreatitis, cirrhosis,
    hepatitis B, hepatitis C, fatty liver disease, colon cancer, gastric cancer, pancreatic cancer,
    hepatocellular carcinoma, inguinal hernia, hemorrhoids, chronic kidney disease, nephrotic syndrome, kidney stones,
    pyelonephritis, polycystic kidney disease, bladder cancer, prostate cancer, benign prostatic hyperplasia,
    ovarian cancer, endometriosis, uterine fibroids, cervical cancer, breast cancer, preeclampsia,
    hypothyroidism, hyperthyroidism, Graves disease, Cushing syndrome, Addison disease, hyperparathyroidism,
    thyroid cancer, obesity, gout, rheumatoid arthritis, osteoarthritis, osteoporosis, lupus, psoriatic arthritis,
    ankylosing spondylitis, fibromyalgia, polymyalgia rheumatica, giant cell arteritis, systemic sclerosis,
    psoriasis, eczema, cellulitis, melanoma, basal cell carcinoma, shingles, rosacea, iron deficiency anemia,
    sickle cell disease, hemophilia, thalassemia, multiple myeloma, acute myeloid leukemia, Hodgkin lymphoma,
    immune thrombocytopenia, sepsis, HIV infection, malaria, Lyme disease, osteomyelitis, septic arthritis,
    depression, bipolar disorder, schizophrenia, panic disorder, anorexia nervosa, alcohol use disorder, dementia,
    glaucoma, cataract, macular degeneration, diabetic retinopathy, otitis media, Meniere disease, spinal stenosis,
    hip fracture, rotator cuff tear, herniated disc, plantar fasciitis, scoliosis, hyperlipidemia, hyponatremia
    """)
)

SYMPTOMS = Lexicon.of(
    listed("""
    chest pain, shortness of breath, cough, fever, chills, night sweats, fatigue, weight loss, headache, dizziness,
    nausea, vomiting, diarrhea, constipation, abdominal pain, bloating, heartburn, loss of appetite, blood in the stool,
    black stools, difficulty swallowing, sore throat, hoarseness, runny nose, nasal congestion, nosebleeds, ear pain,
    hearing loss, ringing in the ears, vertigo, blurred vision, double vision, eye pain, red eyes, dry mouth,
    palpitations, fainting, leg swelling, ankle swelling, calf pain, wheezing, coughing up blood, back pain, neck pain,
    joint pain, joint swelling, morning stiffness, muscle aches, muscle weakness, leg cramps, numbness, tingling,
    tremor, seizures, confusion, memory loss, slurred speech, facial droop, trouble walking, loss of balance, falls,
    insomnia, daytime sleepiness, snoring, anxiety, low mood, irritability, hallucinations, rash, itching, hives,
    dry skin, hair loss, bruising, jaundice, dark urine, pale stools, painful urination, frequent urination,
    blood in the urine, urinary incontinence, weak urine stream, flank pain, pelvic pain, vaginal discharge,
    heavy menstrual bleeding, hot flashes, breast lump, nipple discharge, erectile dysfunction, testicular pain,
    excessive thirst, heat intolerance, cold intolerance, hand pain, knee pain, hip pain, shoulder pain, foot pain,
    swollen glands, mouth sores, bleeding gums, tooth pain, jaw pain, hiccups, sweating, flushing, photophobia,
    stiff neck, burning feet, cold hands, productive cough, epigastric pain, rectal bleeding, pain with exertion
    """)
)

# Grouped, so that a sentence about skin is not told of the spleen.
LIMBS = Lexicon.of(
    listed("""
    left knee, right knee, left hip, right hip, left shoulder, right shoulder, left ankle, right ankle, left wrist,
    right wrist, left elbow, right elbow, left foot, right foot, left hand, right hand, left forearm, right forearm,
    right calf, left calf, left thigh, right thigh, right thumb, left index finger, great toe, heel, lower back, neck,
    scalp, forehead, chin, nose, left cheek, right eyelid, lower lip, upper back, left flank, groin, right axilla,
    left heel, right shin, left shin, sacrum, buttock, fifth toe, ring finger, collarbone, jaw
    """)
)
ORGANS = Lexicon.of(
    listed("""
    liver, spleen, pancreas, gallbladder, stomach, duodenum, colon, rectum, appendix, esophagus, small bowel,
    left kidney, right kidney, bladder, ureter, prostate, uterus, left ovary, right ovary, cervix, thyroid,
    adrenal gland, pituitary gland, parathyroid gland, heart, left ventricle, right atrium, mitral valve, aortic valve,
    aorta, carotid artery, pulmonary artery, femoral vein, portal vein, coronary arteries, pericardium,
    left lung, right lung, left lower lobe, right upper lobe, trachea, bronchus, pleura, diaphragm, larynx,
    brain, cerebellum, frontal lobe, temporal lobe, brain stem, spinal cord, optic nerve, sciatic nerve, retina,
    cornea, tympanic membrane, parotid gland, tonsils, tongue, lymph nodes, bone marrow, cervical spine, lumbar spine,
    femur, tibia, humerus, radius, skull, pelvis, sternum, ribs, achilles tendon, rotator cuff, meniscus, left breast,
    right breast, peritoneum, common bile duct, ileum, cecum, sigmoid colon, epiglottis, thymus
    """)
)
LESIONS = listed("""
    laceration, bruise, abscess, ulcer, burn, mole, blister, puncture wound, cyst, soft tissue mass, tender nodule,
    scar, surgical wound, skin lesion, hematoma, contusion, plaque, sore
    """)
CHANGES = listed("""
    mass, cyst, calcification, inflammation, nodule, lesion, edema, thickening, enlargement, infarct, hemorrhage,
    abscess, tumor, stricture, metastasis, atrophy, ischemia
    """)

PROCEDURES = Lexicon.of(
    listed("""
    appendectomy, laparoscopic cholecystectomy, total knee replacement, total hip arthroplasty, hip fracture repair,
    coronary artery bypass grafting, percutaneous coronary intervention, cardiac catheterization, pacemaker placement,
    aortic valve replacement, catheter ablation, carotid endarterectomy, cesarean section, hysterectomy, mastectomy,
    lumpectomy, thyroidectomy, parathyroidectomy, tonsillectomy, colonoscopy, upper endoscopy, sigmoidoscopy,
    bronchoscopy, cystoscopy, lumbar puncture, bone marrow biopsy, liver biopsy, kidney biopsy, skin biopsy,
    thoracentesis, paracentesis, arthrocentesis, chest tube placement, central line placement, intubation,
    tracheostomy, hemodialysis, plasma exchange, blood transfusion, kidney transplantation, liver transplantation,
    stem cell transplantation, gastric bypass, sleeve gastrectomy, hernia repair, colectomy, colostomy, hemicolectomy,
    splenectomy, nephrectomy, lithotripsy, prostatectomy, vasectomy, cataract extraction, vitrectomy, laser therapy,
    arthroscopy, meniscectomy, rotator cuff repair, spinal fusion, laminectomy, carpal tunnel release, craniotomy,
    ventriculoperitoneal shunt placement, deep brain stimulation, electroconvulsive therapy, radiation therapy,
    radiofrequency ablation, sentinel node biopsy, wound debridement, skin grafting, incision and drainage,
    below-knee amputation, open reduction and internal fixation, electrical cardioversion, stent placement,
    thrombectomy, embolization, fasciotomy, bowel resection, lung lobectomy, feeding tube placement, nerve block
    """)
)

IMAGING_TESTS = Lexicon.of(
    listed("""
    chest x-ray, CT of the chest, CT of the abdomen, CT angiography, head CT, MRI of the brain, MRI of the spine,
    abdominal ultrasound, renal ultrasound, venous duplex ultrasound, echocardiogram, electrocardiogram, stress test,
    mammogram, bone scan, PET scan, colonoscopy, upper endoscopy, bronchoscopy, biopsy, lumbar puncture, EEG,
    nerve conduction study, sleep study, pulmonary function tests, urine culture, blood cultures, urinalysis,
    throat swab, sputum culture, barium swallow, bone density scan, carotid ultrasound, MR angiography, skin biopsy,
    coronary angiography, Holter monitor, thyroid ultrasound, stool studies, x-ray of the knee, pelvic ultrasound
    """)
)

JOBS = listed("""
    teacher, nurse, farmer, truck driver, accountant, carpenter, electrician, cook, retired engineer, office clerk,
    mechanic, librarian, bus driver, student, police officer, baker, retired miner, software developer, painter, lawyer
    """)
