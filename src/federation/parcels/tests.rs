//! What a parcel is on the wire, and who hears what became of it.
