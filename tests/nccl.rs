//! PyTorch's NCCL engine, found by name in libtorch's CUDA half. With a GPU a group of one rank adds up on it; without one,
//! the engine is built far enough to say that there is none. Needs CUDA's libraries: libtorch's own, or those of
//! MINIMIND_PYTHON's torch.

mod common;

use std::rc::Rc;

use minimind::native::{ProcessGroup, Reduce, Reducer, Rendezvous, gpu_uuid, nccl_version};
use tch::{Cuda, Device, Kind, Tensor};

common::needs::tests! {
    gpus_add_up_by_pytorchs_own_engine: [Gloo, Cuda],
}

fn gpus_add_up_by_pytorchs_own_engine() {
    common::python::load_cuda_half().expect("asked for before");
    let [major, ..] =
        nccl_version().expect("libtorch's CUDA half brings NCCL, and the names that are looked up");
    assert!(major >= 2, "NCCL {major}");
    let port = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.local_addr().expect("its address").port()
    };
    let name = "nccl".to_owned();
    let meeting =
        Rendezvous { host: "127.0.0.1".to_owned(), port, rank: 0, world: 1, hosts_store: true, name };
    let group = Rc::new(ProcessGroup::open(&meeting).expect("a group of one"));
    if !Cuda::is_available() {
        let fault = group.use_nccl(0).expect_err("there is no GPU");
        let cause = std::error::Error::source(&fault).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{fault} {cause}").contains("no GPUs found"), "{fault}: {cause}");
        println!("no GPU is here: PyTorch's engine was found and said so, nothing was added up");
        return;
    }
    assert_eq!(gpu_uuid(0).expect("the driver tells").len(), 32);
    group.use_nccl(0).expect("a group of one on a GPU");
    let on_gpu = |values: &[f32]| Tensor::from_slice(values).to_device(Device::Cuda(0));
    // Side by side or not, what one rank holds is the sum.
    let wide = on_gpu(&[1.0, 2.0, 3.0, 4.0]).view([2, 2]).transpose(0, 1);
    group.all_reduce(&wide, Reduce::Sum).expect("a sum");
    group.broadcast(&wide, 0).expect("heard");
    assert_eq!(Vec::<f32>::try_from(wide.reshape([-1])).expect("floats"), [1.0, 3.0, 2.0, 4.0]);
    // Gradients leave during the way back, and the numbers stay; one that has none becomes zeros.
    let leaf = |values: &[f32]| on_gpu(values).set_requires_grad(true);
    let (a, b, without) = (leaf(&[1.0, 2.0]), leaf(&[3.0]), leaf(&[5.0]));
    let all = [a.shallow_clone(), b.shallow_clone(), without.shallow_clone()];
    let mut reducer = Reducer::new(&group, &all, 8).expect("a reducer");
    for pass in 1..=2 {
        reducer.prepare_for_backward().expect("armed");
        (a.square().sum(Kind::Float) + b.sum(Kind::Float)).backward();
        reducer.finalize().expect("shared");
        let read = |t: &Tensor| Vec::<f32>::try_from(t.grad()).expect("a gradient");
        let times = pass as f32;
        assert_eq!(
            (read(&a), read(&b), read(&without)),
            (vec![2.0 * times, 4.0 * times], vec![times], vec![0.0])
        );
    }
    drop(reducer);
    group.close().expect("parts well");
}
