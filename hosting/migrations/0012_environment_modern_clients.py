from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("hosting", "0011_environment_other_paths"),
    ]

    operations = [
        migrations.AddField(
            model_name="environment",
            name="modern_clients",
            field=models.CharField(
                choices=[
                    ("auto", "bridged, unless the code keeps sessions"),
                    ("bridge", "bridged"),
                    ("decline", "told to use an older revision"),
                ],
                default="auto",
                max_length=7,
            ),
        ),
    ]
