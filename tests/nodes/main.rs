//! Real nodes against one another, against servers that misbehave and over
//! links that do: each test is named as the rule it shows.
#![allow(clippy::unwrap_used)] // what fails here fails a test

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod chat_far;
mod client;
mod courier;
mod crowd;
mod doors;
mod evidence;
mod faults;
mod gateway;
mod gateway_real;
mod gateway_rules;
mod hrpc;
mod input;
mod mailroom;
mod notify;
mod operator;
mod outage;
mod parcels;
mod party;
mod push;
mod relay;
mod relay_far;
mod round_based;
mod stock;
mod talker;
mod tls;
mod trust;
mod users;
