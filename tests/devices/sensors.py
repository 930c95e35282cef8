"""Made-up system folders with energy counters in them."""

from pathlib import Path


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def package(sysfs: Path, index: int, microjoules: int, *, name: str = "") -> Path:
    """A processor package's counter, which begins anew at a joule."""
    return write(
        sysfs / f"class/powercap/intel-rapl:{index}",
        name=name or f"package-{index}",
        energy_uj=microjoules,
        max_energy_range_uj=1_000_000,
    )


def jetson(sysfs: Path) -> None:
    """Ten watts into the board, as JetPack 5 and mainline kernels tell it."""
    chip = write(sysfs / "class/hwmon/hwmon3", name="ina3221")
    write(chip, in1_label="VDD_IN", in1_input=5000, curr1_input=2000)
    write(chip, in2_label="VDD_CPU_GPU_CV", in2_input=5000, curr2_input=900)
    write(sysfs / "class/hwmon/hwmon0", name="thermal", in1_label="VDD_IN", in1_input=1)


def old_jetson(sysfs: Path) -> None:
    """Three watts into the GPU and one and a half into the CPU, as JetPack 4 tells it."""
    folder = sysfs / "bus/i2c/drivers/ina3221x/1-0040/iio:device0"
    write(folder, rail_name_0="GPU", in_power0_input=3000, rail_name_1="CPU", in_power1_input=1500)
