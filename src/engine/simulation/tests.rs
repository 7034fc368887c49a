//! What must hold of a simulated run, whatever the numbers of the device are.
#![allow(clippy::float_cmp, reason = "these numbers are exact")]

use super::super::EngineOptions;
use super::*;

fn server(change: impl FnOnce(&mut EngineOptions)) -> Server {
    with_graphs(Graphs::Ragged, change)
}

fn with_graphs(graphs: Graphs, change: impl FnOnce(&mut EngineOptions)) -> Server {
    let (device, shape) = (Device::ascend_910b(), ModelShape::qwen3_8b());
    let model = DeviceModel { device, shape, tensor_parallel: 1 };
    let mut options = EngineOptions {
        max_model_len: 4096,
        max_num_seqs: 64,
        max_num_batched_tokens: 1024,
        block_size: 128,
        num_blocks: model.num_blocks(128, 4 << 30).unwrap(),
        ..EngineOptions::default()
    };
    change(&mut options);
    let buckets = graphs.buckets(&options, &BucketSizes::default()).unwrap();
    Server { model, options, buckets, host_seconds: 100e-6 }
}

fn workload(rate: f64, num_requests: usize) -> Workload {
    let prompt = LogNormal { mean: 600.0, sigma: 0.6 };
    let output = LogNormal { mean: 80.0, sigma: 0.6 };
    Workload {
        rate,
        num_requests,
        lengths: Lengths::LogNormal { prompt, output },
        prefixes: CommonPrefixes::default(),
        seed: 1,
    }
}

fn throughput(server: &Server) -> f64 {
    run(server, &workload(1000.0, 200)).unwrap().output_tokens_per_second()
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let (server, workload) = (server(|_| {}), workload(8.0, 60));
    let report = run(&server, &workload).unwrap();
    assert_eq!(report, run(&server, &workload).unwrap());
    assert_ne!(report, run(&server, &Workload { seed: 2, ..workload }).unwrap());
}

#[test]
fn everybody_finishes_with_all_graphs_and_policies() {
    use super::super::SchedulingPolicy::{Deadline, Fcfs, Priority, ShortestFirst};
    for graphs in [Graphs::Ragged, Graphs::Separate, Graphs::Dynamic] {
        for policy in [Fcfs, Priority, ShortestFirst, Deadline] {
            let server = with_graphs(graphs, |options| options.policy = policy);
            let report = run(&server, &workload(20.0, 80)).unwrap();
            assert_eq!(report.num_requests, 80, "{graphs:?}, {policy:?}");
            let num_launches: u64 = report.buckets.iter().map(|bucket| bucket.num_launches).sum();
            assert_eq!(num_launches, report.num_launches);
            assert_eq!(report.num_steps < report.num_launches, graphs == Graphs::Separate);
            assert_eq!(report.padding_share == 0.0, graphs == Graphs::Dynamic);
            assert!(report.busy_share > 0.5 && report.busy_share <= 1.0, "{report:?}");
        }
    }
}

#[test]
fn as_many_are_there_as_arrive_in_the_time_that_each_stays() {
    // Little's law: of all requests, and of those in the batch.
    for rate in [1.0, 6.0, 50.0] {
        let report = run(&server(|_| {}), &workload(rate, 150)).unwrap();
        assert_eq!(report.num_preemptions, 0);
        let expected = report.requests_per_second() * report.e2e.mean;
        let ratio = report.mean_unfinished / expected;
        assert!((ratio - 1.0).abs() < 1e-6, "{rate}: {ratio}");
        let expected = report.requests_per_second() * (report.e2e.mean - report.queue.mean);
        let ratio = report.mean_running / expected;
        assert!((ratio - 1.0).abs() < 0.01, "{rate}: {ratio} of those who run");
    }
}

#[test]
fn alone_a_request_waits_for_its_own_prefill_only() {
    let server = server(|_| {});
    let lengths = Lengths::Trace(vec![(700, 33)]);
    let report = run(&server, &Workload { lengths, ..workload(0.001, 20) }).unwrap();
    let launch = |num_tokens, seq| {
        let seqs = [seq];
        let launch = LaunchShape { num_tokens, num_logits: 64, seqs: &seqs, is_dynamic: false };
        server.model.launch_seconds(&launch)
    };
    // What it is padded to is 512 and 256 tokens.
    let prefill: f64 = [(512_usize, 512), (188, 700)]
        .map(|(num_tokens, len)| {
            let padded = num_tokens.next_power_of_two();
            launch(padded, SequenceShape { num_tokens, len })
        })
        .iter()
        .sum();
    let got = report.ttft.p50;
    assert!((got / prefill - 1.0).abs() < 0.01, "{got} for {prefill}");
    assert_eq!(report.ttft.p50, report.ttft.p99);
    assert_eq!(report.queue.p99, 0.0);
    let decode = launch(1, SequenceShape { num_tokens: 1, len: 716 });
    assert!((report.tpot.p50 / decode - 1.0).abs() < 0.01, "{} for {decode}", report.tpot.p50);
    assert!((report.mean_step_seqs - 1.0).abs() < 1e-9);
}

#[test]
fn throughput_follows_the_rate_and_then_saturates() {
    let server = server(|_| {});
    let [slow, fast, faster, fastest] =
        [1.0, 2.0, 100.0, 1000.0].map(|rate| run(&server, &workload(rate, 200)).unwrap());
    let ratio =
        |a: &Report, b: &Report| a.output_tokens_per_second() / b.output_tokens_per_second();
    assert!((ratio(&fast, &slow) - 2.0).abs() < 0.1, "{}", ratio(&fast, &slow));
    assert!(ratio(&faster, &fast) < 25.0, "fifty times the rate");
    assert!((ratio(&fastest, &faster) - 1.0).abs() < 0.05, "{}", ratio(&fastest, &faster));
    assert!(faster.ttft.p99 > 10.0 * slow.ttft.p99);
    assert!(fastest.busy_share > 0.99);
}

#[test]
fn more_sequences_at_once_do_not_lower_the_saturated_throughput() {
    for graphs in [Graphs::Ragged, Graphs::Dynamic] {
        let mut last = 0.0;
        for max_num_seqs in [4, 16, 64, 128] {
            let server = with_graphs(graphs, |options| options.max_num_seqs = max_num_seqs);
            let now = throughput(&server);
            assert!(now > last, "{graphs:?}, {max_num_seqs} sequences: {now} after {last}");
            last = now;
        }
    }
}

#[test]
fn a_slow_host_shows_only_where_the_device_is_faster() {
    let report =
        |host_seconds| run(&Server { host_seconds, ..server(|_| {}) }, &workload(4.0, 40)).unwrap();
    let [none, short, long] = [0.0, 5e-3, 50e-3].map(report);
    assert_eq!(none, short);
    assert!(long.tpot.p50 >= 50e-3 && long.busy_share < none.busy_share);
}

#[test]
fn a_small_pool_preempts_and_everybody_finishes_anyway() {
    let server = server(|options| (options.max_model_len, options.num_blocks) = (2048, 48));
    let report = run(&server, &workload(50.0, 100)).unwrap();
    assert!(report.num_preemptions > 0);
    assert!(report.peak_kv_use > 0.9 && report.peak_kv_use <= 1.0);
    assert!(report.mean_kv_use <= report.peak_kv_use);
}

#[test]
fn common_prefixes_are_hits_and_save_time() {
    let prefixes = CommonPrefixes { num_prefixes: 2, num_tokens: 512, share: 0.8 };
    let workload = Workload { prefixes, ..workload(4.0, 100) };
    let report = |is_prefix_cache_on| {
        let server = server(|options| options.is_prefix_cache_on = is_prefix_cache_on);
        run(&server, &workload).unwrap()
    };
    let (on, off) = (report(true), report(false));
    assert_eq!(off.hit_share, 0.0);
    assert!(on.hit_share > 0.3, "{}", on.hit_share);
    assert!(on.ttft.mean < off.ttft.mean);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let message = |server: Server| run(&server, &workload(1.0, 1)).unwrap_err().to_string();
    assert_eq!(
        message(server(|options| options.num_blocks = 4)),
        "the KV cache has 4 blocks of 128 tokens, but one sequence of 4096 tokens needs 32"
    );
    let sizes = BucketSizes { tokens: vec![64], decodes: Vec::new() };
    let mut small = server(|_| {});
    small.buckets = Graphs::Ragged.buckets(&small.options, &sizes).unwrap();
    assert!(message(small).starts_with("no loaded graph holds a step of 1024 tokens"));
    let slow = Server { host_seconds: -1.0, ..server(|_| {}) };
    assert_eq!(message(slow), "invalid seconds of the host: expected a number from 0 to 1, got -1");
}
