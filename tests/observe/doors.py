"""Training by frameworks: `doors.py KIND` prints how many steps it did, by the framework's own count."""

import contextlib
import logging
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

BATCHES = 12

#: Where the script marks its steps itself.
mark = contextlib.nullcontext


class Data(Dataset):
    """Three batches of four an epoch, by default four epochs."""

    def __init__(self, count=BATCHES * 4):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"x": torch.full((8,), float(index % 5)), "y": torch.ones(1)}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def forward(self, x, y=None):
        logits = self.layer(x)
        return {"loss": ((logits - y) ** 2).mean(), "logits": logits}


def lightning(*, module="lightning.pytorch", again=True):
    """Two epochs of 12 batches, two a step; a checkpoint every 4 steps, an evaluation an epoch. Goes on from its last one."""
    pl = __import__(module, fromlist=["Trainer"])

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, batch, _):
            return self.model(**batch)["loss"]

        def validation_step(self, batch, _):
            self.model(**batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def on_save_checkpoint(self, checkpoint):
            time.sleep(0.2)

    def trainer(epochs):
        return pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accumulate_grad_batches=2,
            num_sanity_val_steps=0,
            callbacks=[pl.callbacks.ModelCheckpoint("saved", every_n_train_steps=4, save_top_k=-1)],
        )

    loaders = DataLoader(Data(), batch_size=4), DataLoader(Data(8), batch_size=4)
    first = trainer(2)
    first.fit(Module(), *loaders)
    if first.global_step != 12:
        raise AssertionError(first.global_step)
    if not again:
        return first.global_step
    last = trainer(3)
    last.fit(Module(), *loaders, ckpt_path=first.checkpoint_callback.best_model_path)
    return last.global_step


def pytorch_lightning():
    """The same under its older name."""
    return lightning(module="pytorch_lightning")


def transformers(*, again=True):
    """The same; goes on from the second one."""
    from transformers import Trainer, TrainingArguments

    from elastic_events.observe.transformers import ElasticCallback

    def trainer(epochs):
        arguments = TrainingArguments(
            output_dir="saved",
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            save_steps=4,
            eval_strategy="epoch",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        return Trainer(Model(), arguments, train_dataset=Data(), eval_dataset=Data(8), callbacks=[ElasticCallback()])

    first = trainer(2)
    first.train()
    if not again:
        return first.state.global_step
    last = trainer(3)
    last.train(resume_from_checkpoint="saved/checkpoint-8")
    return last.state.global_step


def accelerate():
    """12 batches, two a step; a checkpoint every 2 steps; loads the first one, and goes on."""
    from accelerate import Accelerator

    from elastic_events.observe.accelerate import watch

    accelerator = watch(Accelerator(cpu=True, gradient_accumulation_steps=2))
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(Data(), batch_size=4))
    steps = 0
    for batch in batches:
        with mark(steps), accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            steps += 1
            if steps % 2 == 0:
                accelerator.save_state(f"saved/{steps}")
    accelerator.load_state("saved/2")
    return steps


def torchtitan():
    """Three steps with its structured logger, as its trainer uses it."""
    from torchtitan.observability import structured_logger

    structured_logger.init_structured_logger(source="training", output_dir="titan")
    structured_logger.log_trace_instant("training_start")
    for step in range(1, 4):
        structured_logger.set_step(step)
        with structured_logger.log_trace_span("fwd_bwd"):
            pass
        structured_logger.log_trace_scalar({"loss": 1 / step})
    return 0


def torchft():
    """Two steps of the only replica, with its real lighthouse, and a process group that is given up."""
    from datetime import timedelta

    from torch.distributed import TCPStore
    from torchft import Manager, ProcessGroupGloo
    from torchft.coordination import LighthouseServer

    logging.basicConfig(stream=sys.stdout, format="%(name)s")
    lighthouse = LighthouseServer(bind="127.0.0.1:0", min_replicas=1, join_timeout_ms=100)
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    group, place = ProcessGroupGloo(timedelta(seconds=60)), {"store_addr": "localhost", "store_port": store.port}
    state = {"load_state_dict": lambda _: None, "state_dict": dict, "replica_id": "one", "rank": 0, "world_size": 1}
    manager = Manager(
        pg=group,
        min_replica_size=1,
        lighthouse_addr=lighthouse.address(),
        timeout=timedelta(seconds=60),
        **place,
        **state,
    )
    for _ in range(2):
        manager.start_quorum()
        manager.should_commit()
    group.abort()
    manager.shutdown(wait=False)
    lighthouse.shutdown()
    return 0


if __name__ == "__main__":
    sys.stdout.write(f"{globals()[sys.argv[1]]()}\n")
