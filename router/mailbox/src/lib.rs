//! A bounded mailbox with an owner state, model-checked.
