"""Many instances over many associations: what is sent next, what each answer means, and the record of it all."""
