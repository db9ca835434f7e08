"""Random requests on pools whose workers are killed, stopped and fed with what breaks them."""
