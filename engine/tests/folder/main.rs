//! What a store's folder must survive and what it must refuse: damage, foreign and newer data,
//! kills at any moment, a full disk.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod full;
mod kill;
mod opening;
mod store;
