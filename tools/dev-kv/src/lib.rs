//! PD's and TiKV's wire protocol in one durable process.
