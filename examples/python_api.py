"""A task of one's own in Python: adapt, score, predict. Run it from the root of the repository."""

import clinprompt as cp

backbone = cp.load_backbone("embedded")
task = cp.load_task("examples/own_task/problems.yaml")
file = cp.adapt("embedded", task, shots=20, out="runs/problems.safetensors", backbone=backbone)
found = cp.evaluate(file, task, split="test", backbone=backbone)
print(f"{found.headline}: {found.value.value:.1f} [{found.value.low:.1f}, {found.value.high:.1f}] on {found.n} notes")
for prediction in cp.predict(file, ["She has gout and reports a mild headache."], backbone=backbone):
    for entity in prediction.record.entities:
        print(entity.type, entity.spans, entity.text_in(prediction.record.text))
