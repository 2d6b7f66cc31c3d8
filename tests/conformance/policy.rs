//! Area POL: issuance policy and scope processing.
