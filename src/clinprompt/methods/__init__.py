"""What is trained and how it is applied: prompt tuning and multitask prompt tuning."""
